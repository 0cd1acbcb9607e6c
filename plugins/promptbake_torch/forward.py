"""Forward passes over rows that are aligned at their end and share their beginning.

Rows of tokens are padded on the left, so that every row ends with its response. The tokens that all
rows begin with (the rendered system prompt) are computed once, for one row, and all rows share
their keys and values.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptbake import TokenIds


@dataclass(frozen=True, eq=False)
class Rows:
    """Token rows behind a shared prefix: input_ids [B, L], attention_mask [B, P + L]."""

    prefix: TokenIds  # P tokens
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor  # [B, L]

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for a Hugging Face model."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }


def pad_rows(rows: Sequence[TokenIds], prefix: TokenIds, device: torch.device) -> Rows:
    """Pad rows on the left, each without the prefix that it begins with."""
    rests = [row[len(prefix) :] for row in rows]
    length = max(len(rest) for rest in rests)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), len(prefix) + length, dtype=torch.long)
    mask[:, : len(prefix)] = 1
    for index, rest in enumerate(rests):
        ids[index, length - len(rest) :] = torch.tensor(rest)
        mask[index, len(prefix) + length - len(rest) :] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, len(prefix) :]
    return Rows(prefix, ids.to(device), mask.to(device), positions.to(device))


def shared_prefix(rows: Sequence[TokenIds], prefixes: Sequence[TokenIds]) -> TokenIds:
    """The shortest of the prefixes where all rows begin with it, else nothing.

    At least one token of each row comes after it.
    """
    shortest = min(prefixes, key=len)
    shared = all(row[: len(shortest)] == shortest and len(row) > len(shortest) for row in rows)
    return shortest if shared else ()


def run_module(module: Any, cache: Any, **arguments: Any) -> tuple[Tensor, Any]:
    """Logits and the cache of a Hugging Face model, whatever its version calls the cache.

    Args:
        module: The model, or peft's wrapper around it.
        cache: Keys and values of the tokens before; None for none.
        arguments: Of the model's forward pass.
    """
    kind: Any = type(without_peft(module))
    name = _cache_argument(kind)
    output = module(**{name: cache}, **arguments)
    return output.logits, getattr(output, name)


@functools.cache
def _cache_argument(kind: Any) -> str:
    renamed = "cache" in inspect.signature(kind.forward).parameters  # transformers 5.24
    return "cache" if renamed else "past_key_values"


def without_peft(module: Any) -> Any:
    """The model of transformers inside peft's wrapper, if there is one."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def prefix_cache(module: Any, prefix: TokenIds, device: torch.device) -> Any:
    """Keys and values of the prefix, for one row; None for an empty one."""
    if not prefix:
        return None
    ids = torch.tensor([prefix], device=device)
    return run_module(module, None, input_ids=ids, use_cache=True, logits_to_keep=1)[1]


def repeated(cache: Any, rows: int, *, keep: bool) -> Any:
    """The cache of one row for several; `keep` leaves the one-row cache as it was."""
    if cache is None:
        return None
    if keep:
        cache = copy.deepcopy(cache)
    cache.batch_repeat_interleave(rows)
    return cache


def response_logits(module: Any, cache: Any, arguments: Mapping[str, Any], n_last: int) -> Tensor:
    """Logits [B, n_last, V] that predict the last n_last tokens of every row.

    Args:
        module: As in `run_module`.
        cache: As in `run_module`.
        arguments: `Rows.arguments`, or the engine's.
        n_last: How many tokens; the longest response.
    """
    # The last token predicts nothing that is wanted.
    aligned = ("input_ids", "position_ids", "attention_mask")
    shorter = {name: arguments[name][:, :-1] for name in aligned}
    use_cache = cache is not None
    logits, _ = run_module(
        module, cache, **{**arguments, **shorter}, use_cache=use_cache, logits_to_keep=n_last
    )
    return logits.float()
