"""Reading the service's answers: shapes are checked, and whatever is missing is named."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from promptbake import BakeError, Span, response_token_as_draw

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
    """The response's own token [N, 1] as the one draw, where the service draws none."""
    if answer.prompt_logprobs_np is None or len(answer.prompt_logprobs_np) != len(span.tokens):
        raise misses("prompt_logprobs", span)
    logprobs = torch.from_numpy(answer.prompt_logprobs_np).float()[-span.n_response :]
    return response_token_as_draw(span, logprobs, top)


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
