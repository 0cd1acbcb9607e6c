"""Several rows of tokens as one row: no padding, and what all begin with in common only once.

A row's tokens attend to the common beginning and to their own row, which a mask says. The numbers
are those of the rows one by one, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from promptbake import TokenIds
from promptbake_torch.forward import run_module
from promptbake_torch.shared_prefix import TOLERANCE

MOST_TOKENS = 512  # a mask has a cell for each pair of tokens, of which most are of two rows


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows as one row of T tokens, of which N predict the rows' responses, row after row.

    Attributes:
        input_ids: int64 [1, T].
        position_ids: int64 [1, T], where each token stands in its own row.
        attention_mask: bool [1, 1, T, T].
        predicting: int64 [N], the places whose logits are wanted.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    predicting: Tensor

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for a Hugging Face model."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
            "logits_to_keep": self.predicting,
            "use_cache": False,
        }


def pack(
    rows: Sequence[TokenIds], n_responses: Sequence[int], device: torch.device, cached: int = 0
) -> Packed:
    """Pack rows, each without its last token, which predicts nothing that is wanted.

    Args:
        rows: Token ids; at least two each.
        n_responses: How many tokens at the end of each are its response.
        device: Of the result.
        cached: Tokens that all rows begin with and that are left out: the model has their keys and
            values. Every response begins behind them.
    """
    common = max(common_length(rows), cached)
    tokens, positions = list(rows[0][cached:common]), list(range(cached, common))
    owners, predicting = [-1] * len(tokens), list[int]()
    for owner, (row, n_response) in enumerate(zip(rows, n_responses, strict=True)):
        first = len(tokens) - common  # where the row would begin if it stood here whole
        wanted = range(len(row) - 1 - n_response, len(row) - 1)
        predicting += [place - cached if place < common else first + place for place in wanted]
        tokens += row[common:-1]
        positions += range(common, len(row) - 1)
        owners += [owner] * (len(row) - 1 - common)
    owner_T = torch.tensor(owners)
    visible = (owner_T == -1) | (owner_T == owner_T.unsqueeze(1))
    return Packed(
        torch.tensor([tokens], device=device),
        torch.tensor([positions], device=device),
        visible.tril().view(1, 1, len(tokens), len(tokens)).to(device),
        torch.tensor(predicting, device=device),
    )


def packed_length(rows: Sequence[TokenIds]) -> int:
    """How many tokens the rows take when they are packed."""
    common = common_length(rows)
    return common + sum(len(row) - 1 - common for row in rows)


def common_length(rows: Sequence[TokenIds]) -> int:
    """How many tokens all rows begin with; each has one behind them that predicts."""
    most = min(len(row) for row in rows) - 2
    least, greatest = min(rows), max(rows)  # between which all others lie
    parted = (place for place in range(most) if least[place] != greatest[place])
    return next(parted, most)


@torch.inference_mode()
def can_pack(module: Any) -> bool:
    """Whether a model gives packed rows what it gives each alone: one that only attends does.

    Args:
        module: A causal language model of transformers, not yet wrapped by peft.
    """
    vocabulary = module.config.get_text_config().vocab_size
    rows = [tuple(token % vocabulary for token in (1, 2, *more)) for more in ((3, 4, 5), (6, 7))]
    packed = pack(rows, [2, 2], module.device)
    try:
        together = run_module(module, None, **packed.arguments)[0][0]
    except (NotImplementedError, TypeError, AttributeError, RuntimeError, ValueError):
        return False
    alone = [
        run_module(module, None, input_ids=torch.tensor([row[:-1]], device=module.device))[0][0]
        for row in rows
    ]
    expected = torch.cat([logits[-2:] for logits in alone])
    if together.shape != expected.shape:
        return False
    error = (together - expected).abs().max() / expected.abs().max()
    return bool(error < TOLERANCE.get(expected.dtype, 0.0))
