"""Reading the service's answers: shapes are checked, and whatever is missing is named."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from promptbake.errors import BakeError
from promptbake.types import Span

NEVER = 1e-9  # a probability: the response is not this model's own
NOT_SCORED = -1e4  # nats: the SDK fills cells without a log-probability with -99999


def top_k(answer: Any, span: Span, k: int) -> tuple[Tensor, Tensor]:
    """The top K [N, K] of the response positions, most likely first."""
    found = answer.topk_prompt_logprobs_np
    if found is None:
        raise misses("topk_prompt_logprobs", span)
    ids = torch.from_numpy(found.token_ids).long()
    logprobs = torch.from_numpy(found.logprobs).float()
    if len(ids) != len(span.tokens) or not ids.shape == logprobs.shape:
        raise misses("topk_prompt_logprobs", span, logprobs)
    ids, logprobs = ids[-span.n_response :], logprobs[-span.n_response :]
    if ids.shape[1] > k or bool((logprobs < NOT_SCORED).any()):
        raise misses("topk_prompt_logprobs", span, logprobs)
    if ids.shape[1] < k:
        raise BakeError(
            f"teacher.top_k = {k}: the service returns {ids.shape[1]} log-probabilities a "
            "position; lower it"
        )
    order = logprobs.argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), logprobs.gather(1, order)


def alternatives(answer: Any, span: Span) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, log-probabilities and measure [N, M] of draws from the whole distribution."""
    ids = answer.prompt_alt_tokens.tokens.to_torch().long()
    logprobs = answer.prompt_alt_tokens.logprobs.to_torch().float()
    if len(ids) != len(span.tokens) - 1 or ids.shape != logprobs.shape:
        raise misses("prompt_alt_tokens", span, logprobs)
    ids, logprobs = ids[-span.n_response :], logprobs[-span.n_response :]
    if bool((logprobs < NOT_SCORED).any()):
        raise misses("prompt_alt_tokens", span, logprobs)
    return ids, logprobs, (-logprobs).exp() / ids.shape[1]


def realised(answer: Any, span: Span, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The response's own token [N, 1], drawn with the probability p_T(y) of its temperature T.

    p_T(y) = p(y)^(1/T) / Z. Of Z, the sum of p^(1/T) over the vocabulary, the top K's part is
    known; the tail's is taken as if its tokens were half as likely as the K-th.
    """
    if answer.prompt_logprobs_np is None or len(answer.prompt_logprobs_np) != len(span.tokens):
        raise misses("prompt_logprobs", span)
    ids = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
    logprobs = torch.from_numpy(answer.prompt_logprobs_np).float()[-span.n_response :].unsqueeze(1)
    power = 1 / max(span.temperature, 1e-2)
    tail = (-torch.expm1(top.logsumexp(dim=1, keepdim=True))).clamp(min=0)
    typical = top[:, -1:] - math.log(2)
    normaliser = (power * top).exp().sum(dim=1, keepdim=True)
    normaliser = normaliser + tail * ((power - 1) * typical).exp()
    drawn_with = (power * logprobs).exp() / normaliser
    if bool((drawn_with < NEVER).any()):
        raise BakeError(
            f"{span.name or 'a sequence'}: has a token that the prompted model would not say at "
            f"temperature {span.temperature:g} in a billion times, so it cannot stand for the "
            "tail; set train.tail=bucket"
        )
    return ids, logprobs, 1 / drawn_with


def outside(
    top_ids: Tensor, ids: Tensor, logprobs: Tensor, measure: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same draws, with measure 0 for those that fell into the top K."""
    inside = (ids.unsqueeze(2) == top_ids.unsqueeze(1)).any(dim=2)
    return ids, logprobs, measure.masked_fill(inside, 0.0)


def named(span: Span) -> str:
    """Whose answer it is, for a message."""
    return f"{span.name or 'a sequence'}, its scoring"


def misses(field: str, span: Span, found: Tensor | None = None) -> BakeError:
    """An answer that lacks a field, or has it in another shape than the prompt's."""
    shape = "nothing" if found is None else f"{tuple(found.shape)}"
    return BakeError(
        f"{span.name or 'a sequence'}: the service's answer has {shape} as {field}, for "
        f"{span.n_response} response tokens at the end of {len(span.tokens)}; what it answered "
        "otherwise is kept, and the same command asks for this one again"
    )
