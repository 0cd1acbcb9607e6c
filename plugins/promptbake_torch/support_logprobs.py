"""Log-probabilities of a few tokens a position, with one gradient of the vocabulary's size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 64  # rows whose intermediate results are in memory at a time


class SupportLogprobs(torch.autograd.Function):
    """Logits [M, V] and ids [M, C] to log-probabilities [M, C].

    The backward pass fills a single [M, V]; autograd's own would make three. What is smaller than
    that is computed some rows at a time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        """The chosen logits less the log of the sum of the exponentials of all."""
        chunks = [rows.logsumexp(dim=1, keepdim=True) for rows in torch.split(logits, CHUNK)]
        totals = torch.cat(chunks)
        ctx.save_for_backward(logits, ids, totals)
        return logits.gather(1, ids) - totals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """d/dlogit_v = g_v - p_v * sum of g."""
        (gradient,) = gradients
        logits, ids, totals = ctx.saved_tensors
        result = torch.empty_like(logits)
        chunks = (torch.split(each, CHUNK) for each in (result, logits, totals, gradient))
        for out, rows, total, nats in zip(*chunks, strict=True):
            torch.sub(rows, total, out=out)
            out.exp_().mul_(-nats.sum(dim=1, keepdim=True))
        return result.scatter_add_(1, ids, gradient), None


def support_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """As `SupportLogprobs`, differentiable with respect to the logits."""
    result: Tensor = SupportLogprobs.apply(logits, ids)  # type: ignore[no-untyped-call]
    return result
