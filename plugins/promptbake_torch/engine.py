"""One Hugging Face model in memory, shared by the base model and the baked ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptbake import BakeError, ChatRenderer, Span, TokenIds
from promptbake_torch import forward
from promptbake_torch.forward import Rows
from promptbake_torch.packing import MOST_TOKENS, can_pack, pack, packed_length
from promptbake_torch.shared_prefix import RowPrefixes, SharedPrefix, use_shared_prefixes

MASK_CELLS = 2**24  # 16 rows of 1,024 tokens
MOST_GROUPS = 4  # of rows behind different prefixes, in one pass


class Engine:
    """A module, its renderer, and the adapters that have been added to it.

    Args:
        module: A causal language model of transformers, frozen; `make_engine` freezes it.
        renderer: Its tokenizer's chat template.
        name: As in `model.name`.
        digest: Changes when the weights do.

    Attributes:
        shares_prefixes: Whether a prefix is stored once for all rows that begin with it.
        packs: Whether several rows can be computed as one.
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
        self._in_effect: str | None = None
        self._prefixes: dict[tuple[str | None, TokenIds], Any] = {}
        self.packs = can_pack(module)
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

    def with_adapter(self, adapter: str | None) -> Any:
        """The module, with this adapter in effect from now on, or none.

        What is in effect already is not switched: peft visits every layer for it.
        """
        if adapter == self._in_effect:
            return self.module
        if adapter is None:
            self.module.base_model.disable_adapter_layers()
        else:
            self.module.base_model.enable_adapter_layers()
            self.module.set_adapter(adapter)
        self._in_effect = adapter
        return self.module

    def attach(self, adapter: str, config: Any) -> None:
        """Add an adapter of peft to the module; none is in effect then."""
        import peft

        if hasattr(self.module, "peft_config"):
            self.module.add_adapter(adapter, config)
        else:
            self.module = peft.get_peft_model(self.module, config, adapter_name=adapter)
        self.module.base_model.disable_adapter_layers()
        self._in_effect = None

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
        """Pad the rows behind the system prompts that they begin with.

        One for all, where the model knows no more; see `RowPrefixes`. Padding is between the two,
        and a sliding window would count it: where rows of different lengths are longer than the
        window, nothing is shared, and padding comes first. A long row alone shares nothing either:
        with no padding and no cache it needs no mask.
        """
        groups: list[tuple[TokenIds, int]] = [(self._common_prefix(rows), len(rows))]
        if self.shares_prefixes and not groups[0][0]:
            several = forward.grouped_prefixes(rows, [*map(self.renderer.known_prefix, rows)])
            groups = several if len(several) <= MOST_GROUPS else groups
        lengths = {len(row) for row in rows}
        outside_window = len(lengths) > 1 and max(lengths) > self._window
        if outside_window or (len(rows) == 1 and _mask_cells(rows) > MASK_CELLS):
            groups = [((), len(rows))]
        return forward.pad_rows(rows, groups, self.device)

    def begin(self, adapter: str | None, rows: Rows) -> tuple[Any, dict[str, Any]]:
        """The cache and the keyword arguments of a pass over these rows, behind their prefixes.

        A prefix's keys and values are computed once for each adapter. Not for training: no
        gradient flows through them.
        """
        if not any(prefix for prefix, _ in rows.groups):
            return None, rows.arguments
        if not self.shares_prefixes:
            prefix = self._prefix(adapter, rows.prefix)
            return forward.repeated(prefix, len(rows.input_ids)), rows.behind_cache
        groups = [
            (self._prefix(adapter, prefix) if prefix else None, n) for prefix, n in rows.groups
        ]
        return None, rows.arguments | {"shared_prefix": RowPrefixes(groups)}

    def response_logits(self, adapter: str | None, spans: Sequence[Span]) -> list[Tensor]:
        """Logits [N, V] that predict each response, N its tokens: packed, or padded if not."""
        rows = [span.tokens for span in spans]
        counts = [span.n_response for span in spans]
        if self._packed(rows):
            shared = self._common_prefix(rows) if self.shares_prefixes else ()
            arguments = pack(rows, counts, self.device, len(shared)).arguments
            if shared:
                arguments["shared_prefix"] = RowPrefixes([(self._prefix(adapter, shared), 1)])
            module = self.with_adapter(adapter)
            logits = forward.run_module(module, None, **arguments)[0][0].float()
            return list(torch.split(logits, counts))
        padded = self.pad(rows)
        cache, arguments = self.begin(adapter, padded)
        module = self.with_adapter(adapter)
        logits = forward.response_logits(module, cache, arguments, max(counts))
        return [row[-count:] for row, count in zip(logits, counts, strict=True)]

    def training_logits(self, adapter: str, spans: Sequence[Span]) -> tuple[Tensor, list[slice]]:
        """Logits [M, V], through which gradients flow, and which of them predict each response."""
        rows = [span.tokens for span in spans]
        counts = [span.n_response for span in spans]
        module = self.with_adapter(adapter)
        if self._packed(rows):
            arguments = pack(rows, counts, self.device).arguments
            logits = forward.run_module(module, None, **arguments)[0][0].float()
            ends = list(itertools.accumulate(counts))
        else:
            padded = forward.pad_rows(rows, [((), len(rows))], self.device)
            logits = forward.response_logits(module, None, padded.arguments, max(counts))
            ends = list(range(max(counts), len(rows) * max(counts) + 1, max(counts)))
            logits = logits.flatten(0, 1)
        return logits, [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]

    def _packed(self, rows: Sequence[TokenIds]) -> bool:
        fits = max(map(len, rows)) <= self._window and min(map(len, rows)) > 1
        return self.packs and fits and packed_length(rows) <= MOST_TOKENS

    def _common_prefix(self, rows: Sequence[TokenIds]) -> TokenIds:
        return forward.shared_prefix(rows, [self.renderer.known_prefix(row) for row in rows])

    def _prefix(self, adapter: str | None, prefix: TokenIds) -> Any:
        key = (adapter, prefix)
        if key not in self._prefixes:
            cache = forward.prefix_cache(self.with_adapter(adapter), prefix, self.device)
            self._prefixes[key] = SharedPrefix.of(cache) if self.shares_prefixes else cache
        return self._prefixes[key]

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
