"""Training batches as Tinker's data: one (N, K) datum a conversation, or K with (N,) targets.

The input is all tokens but the last, the target all but the first; the rows before the response
have weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import tinker
import torch
from torch import Tensor

from promptbake.types import Datums, Example, TokenIds

INPUTS = ("target_tokens", "weights")


def data_of(
    batch: Sequence[Example], weights: Sequence[Tensor], datums: Datums
) -> list[tinker.Datum]:
    """The batch's data; `weights` [N, C] of each example, for the weighted cross-entropy."""
    return [
        datum
        for example, weight in zip(batch, weights, strict=True)
        for datum in _data(example, weight, datums)
    ]


def response_logprobs(
    batch: Sequence[Example], logprobs: Sequence[Tensor], datums: Datums
) -> list[Tensor]:
    """Log-probabilities [N, C] of each example's columns, of those that came for its data."""
    rows, found = iter(logprobs), []
    for example in batch:
        ids, n = example.columns.ids, example.datum.n_response
        if datums == "one":
            whole = next(rows).reshape(-1, ids.shape[1])
        else:
            whole = torch.stack([next(rows).reshape(-1) for _ in range(ids.shape[1])], dim=1)
        found.append(whole[-n:])
    return found


def wide_datum(tokens: TokenIds, ids: Tensor, weights: Tensor) -> tinker.Datum:
    """One datum whose last N positions have K targets each; `ids` and `weights` are [N, K]."""
    return _datum(tokens, *_padded(tokens, ids, weights))


def _data(example: Example, weights: Tensor, datums: Datums) -> list[tinker.Datum]:
    tokens = example.datum.student_ids
    if datums == "one":
        return [wide_datum(tokens, example.columns.ids, weights)]
    targets, padded = _padded(tokens, example.columns.ids, weights)
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
