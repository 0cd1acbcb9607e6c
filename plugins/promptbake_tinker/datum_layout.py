"""Training batches as Tinker's data: one (N, K) datum a conversation, or K with (N,) targets.

The input is all tokens but the last, the target all but the first; the rows before the response
have weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import tinker
import torch
from torch import Tensor

from promptbake import Example, TokenIds

INPUTS = ("target_tokens", "weights")
DatumLayout = Literal["wide", "per_token"]


def data_of(
    batch: Sequence[Example], weights: Sequence[Tensor], layout: DatumLayout
) -> list[tinker.Datum]:
    """The batch's data; `weights` [N, C] of each example, for the weighted cross-entropy."""
    return [
        datum
        for example, weight in zip(batch, weights, strict=True)
        for datum in _data(example, weight, layout)
    ]


def response_logprobs(
    batch: Sequence[Example], logprobs: Sequence[Tensor], layout: DatumLayout
) -> list[Tensor]:
    """Log-probabilities [N, C] on each example's support, from the service's outputs per datum."""
    rows, by_example = iter(logprobs), []
    for example in batch:
        ids, n = example.support.ids, example.datum.n_response
        if layout == "wide":
            whole = next(rows).reshape(-1, ids.shape[1])
        else:
            whole = torch.stack([next(rows).reshape(-1) for _ in range(ids.shape[1])], dim=1)
        by_example.append(whole[-n:])
    return by_example


def wide_datum(tokens: TokenIds, ids: Tensor, weights: Tensor) -> tinker.Datum:
    """One datum whose last N positions have K targets each; `ids` and `weights` are [N, K]."""
    return _datum(tokens, *_padded(tokens, ids, weights))


def _data(example: Example, weights: Tensor, layout: DatumLayout) -> list[tinker.Datum]:
    tokens = example.datum.student_ids
    if layout == "wide":
        return [wide_datum(tokens, example.support.ids, weights)]
    targets, padded = _padded(tokens, example.support.ids, weights)
    columns = zip(targets.unbind(dim=1), padded.unbind(dim=1), strict=True)
    return [_datum(tokens, *column) for column in columns]


def _padded(tokens: TokenIds, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    before = len(tokens) - 1 - len(ids)
    return torch.cat([ids.new_zeros(before, ids.shape[1]), ids]), torch.cat(
        [weights.new_zeros(before, ids.shape[1]), weights]
    )


def _datum(tokens: TokenIds, targets: Tensor, weights: Tensor) -> tinker.Datum:
    # As TensorData: a raw 2-D tensor that is mostly zero would be sent as CSR.
    inputs = (tinker.TensorData.from_torch(part.contiguous()) for part in (targets, weights))
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(list(tokens[:-1])),
        loss_fn_inputs=dict(zip(INPUTS, inputs, strict=True)),
    )
