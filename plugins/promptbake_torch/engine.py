"""One Hugging Face model in memory, shared by the base model and the baked ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from promptbake import BakeError, ChatRenderer, TokenIds
from promptbake_torch import forward
from promptbake_torch.forward import Rows
from promptbake_torch.shared_prefix import SharedPrefix, use_shared_prefixes

MASK_CELLS = 2**24  # 16 rows of 1,024 tokens


class Engine:
    """A module, its renderer, and the adapters that have been added to it.

    Args:
        module: A causal language model of transformers, frozen; `make_engine` freezes it.
        renderer: Its tokenizer's chat template.
        name: As in `model.name`.
        digest: Changes when the weights do.

    Attributes:
        shares_prefixes: Whether a prefix is stored once for all rows that begin with it.
    """

    def __init__(self, module: Any, renderer: ChatRenderer, name: str, digest: str) -> None:
        self.module = module
        self.renderer = renderer
        self.name = name
        self.digest = digest
        self.device: torch.device = module.device
        self.context_tokens: int = getattr(
            module.config.get_text_config(), "max_position_embeddings", 2**31
        )
        self._window = _window(module.config.get_text_config())
        self._adapters = 0
        self._prefixes: dict[tuple[str | None, TokenIds], Any] = {}
        self.shares_prefixes = use_shared_prefixes(module)

    @property
    def source(self) -> str:
        """Where transformers and peft find the model: a folder or a hub id.

        The name of a model that was never in a file.
        """
        source: str = self.module.config.name_or_path  # peft's model has its base model's config
        if not source:
            return self.name
        return str(Path(source).resolve()) if Path(source).is_dir() else source

    def next_adapter(self) -> str:
        """The name of the next adapter."""
        self._adapters += 1
        return f"baked-{self._adapters}"

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[Any]:
        """The module with one adapter, or none, in effect."""
        if adapter is not None:
            self.module.set_adapter(adapter)
            yield self.module
        elif hasattr(self.module, "disable_adapter"):
            with self.module.disable_adapter():
                yield self.module
        else:
            yield self.module

    def batches(self, rows: Sequence[TokenIds], most: int) -> Iterator[slice]:
        """Consecutive rows that one pass takes: at most `most`, and fewer where they are long.

        A mask has a cell for each pair of tokens of each row. Long rows go alone, so that memory is
        linear in their length.
        """
        start = 0
        for end in range(1, len(rows) + 1):
            whole = end == len(rows) or end - start == most
            if whole or _mask_cells(rows[start : end + 1]) > MASK_CELLS:
                yield slice(start, end)
                start = end

    def pad(self, rows: Sequence[TokenIds]) -> Rows:
        """Pad the rows behind the system prompt that they share.

        Padding is between the two, and a sliding window would count it: where rows of different
        lengths are longer than the window, nothing is shared, and padding comes first. A long row
        alone shares nothing either: with no padding and no cache it needs no mask.
        """
        if len(rows) == 1 and _mask_cells(rows) > MASK_CELLS:
            return forward.pad_rows(rows, (), self.device)
        lengths = {len(row) for row in rows}
        if len(lengths) > 1 and max(lengths) > self._window:
            return forward.pad_rows(rows, (), self.device)
        prefixes = [self.renderer.known_prefix(row) for row in rows]
        return forward.pad_rows(rows, forward.shared_prefix(rows, prefixes), self.device)

    def begin(self, adapter: str | None, rows: Rows) -> tuple[Any, dict[str, Any]]:
        """The cache and the keyword arguments of a pass over these rows, behind their prefix.

        The prefix's keys and values are computed once for each adapter. Not for training: no
        gradient flows through them.
        """
        if not rows.prefix:
            return None, rows.arguments
        key = (adapter, rows.prefix)
        if key not in self._prefixes:
            with self.using(adapter) as module:
                cache = forward.prefix_cache(module, rows.prefix, self.device)
            self._prefixes[key] = SharedPrefix.of(cache) if self.shares_prefixes else cache
        prefix = self._prefixes[key]
        if not self.shares_prefixes:
            return forward.repeated(prefix, len(rows.input_ids), keep=True), rows.arguments
        own = rows.attention_mask[:, len(rows.prefix) :]
        return None, rows.arguments | {"attention_mask": own, "shared_prefix": prefix}

    def forget(self, adapter: str) -> None:
        """Discard what was computed with the adapter's weights, which have changed."""
        self._prefixes = {key: each for key, each in self._prefixes.items() if key[0] != adapter}

    def check_length(self, tokens: int) -> None:
        """Raise BakeError for a sequence that is longer than the context."""
        if tokens > self.context_tokens:
            raise BakeError(
                f"model {self.name}: a sequence of {tokens} tokens does not fit its context of "
                f"{self.context_tokens}"
            )


def _mask_cells(rows: Sequence[TokenIds]) -> int:
    return len(rows) * max(map(len, rows)) ** 2


def _window(config: Any) -> float:
    """The fewest tokens that a layer attends to; infinity where every layer attends to all."""
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((window for window in windows if window), default=math.inf)
