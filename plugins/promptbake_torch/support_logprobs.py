"""Log-probabilities of a few tokens a position, with one gradient of the vocabulary's size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SupportLogprobs(torch.autograd.Function):
    """Logits [B, L, V] and ids [B, L, C] to log-probabilities [B, L, C].

    The backward pass fills a single [B, L, V]; autograd's own would make three for each row. What
    is smaller than that is computed a row at a time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        """The chosen logits less the log of the sum of the exponentials of all."""
        totals = torch.stack([row.logsumexp(dim=1, keepdim=True) for row in logits])
        ctx.save_for_backward(logits, ids, totals)
        return logits.gather(2, ids) - totals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """d/dlogit_v = g_v - p_v * sum of g."""
        (gradient,) = gradients
        logits, ids, totals = ctx.saved_tensors
        result = torch.empty_like(logits)
        for row, row_logits, total, nats in zip(result, logits, totals, gradient, strict=True):
            torch.sub(row_logits, total, out=row)
            row.exp_().mul_(-nats.sum(dim=1, keepdim=True))
        return result.scatter_add_(2, ids, gradient), None


def support_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """As `SupportLogprobs`, differentiable with respect to the logits."""
    result: Tensor = SupportLogprobs.apply(logits, ids)  # type: ignore[no-untyped-call]
    return result
