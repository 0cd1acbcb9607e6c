"""Forward passes over rows that are aligned at their end and share their beginnings.

Rows of tokens are padded on the left, so that every row ends with its response. The tokens that
neighbouring rows begin with (a rendered system prompt) are computed once, for one row, and these
rows share their keys and values.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptbake import TokenIds


@dataclass(frozen=True, eq=False)
class Rows:
    """Token rows [B, L], each behind the prefix of its group.

    Attributes:
        groups: Prefixes, each with the number of rows that stand behind it; `()` for none.
        input_ids: int64 [B, L].
        attention_mask: int64 [B, L], 0 for padding.
        position_ids: int64 [B, L].
    """

    groups: Sequence[tuple[TokenIds, int]]
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for a Hugging Face model that knows nothing of the prefixes."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }

    @property
    def prefix(self) -> TokenIds:
        """The one prefix of all rows."""
        ((prefix, _),) = self.groups
        return prefix

    @property
    def behind_cache(self) -> dict[str, Any]:
        """Keyword arguments where the cache has the one prefix of all rows."""
        before = self.attention_mask.new_ones(len(self.input_ids), len(self.prefix))
        mask = torch.cat([before, self.attention_mask], dim=1)
        return self.arguments | {"attention_mask": mask}


def pad_rows(
    rows: Sequence[TokenIds], groups: Sequence[tuple[TokenIds, int]], device: torch.device
) -> Rows:
    """Pad rows on the left, each without the prefix that it begins with."""
    befores = [len(prefix) for prefix, n_rows in groups for _ in range(n_rows)]
    rests = [row[before:] for row, before in zip(rows, befores, strict=True)]
    length = max(len(rest) for rest in rests)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for index, rest in enumerate(rests):
        ids[index, length - len(rest) :] = torch.tensor(rest)
        mask[index, length - len(rest) :] = 1
    positions = (mask.cumsum(dim=1) + torch.tensor(befores).unsqueeze(1) - 1).clamp(min=0)
    return Rows(groups, ids.to(device), mask.to(device), positions.to(device))


def shared_prefix(rows: Sequence[TokenIds], prefixes: Sequence[TokenIds]) -> TokenIds:
    """The shortest of the prefixes where all rows begin with it, else nothing.

    At least one token of each row comes after it.
    """
    shortest = min(prefixes, key=len)
    shared = all(row[: len(shortest)] == shortest and len(row) > len(shortest) for row in rows)
    return shortest if shared else ()


def grouped_prefixes(
    rows: Sequence[TokenIds], prefixes: Sequence[TokenIds]
) -> list[tuple[TokenIds, int]]:
    """Neighbouring rows with the same prefix, behind which each has at least one token."""
    usable = [
        prefix if len(row) > len(prefix) else () for row, prefix in zip(rows, prefixes, strict=True)
    ]
    return [(prefix, len(list(group))) for prefix, group in itertools.groupby(usable)]


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
    """Keys and values of the prefix, for one row."""
    ids = torch.tensor([prefix], device=device)
    return run_module(module, None, input_ids=ids, use_cache=True, logits_to_keep=1)[1]


def repeated(cache: Any, rows: int) -> Any:
    """A copy of the cache of one row, for several."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied


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
