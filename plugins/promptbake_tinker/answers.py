"""Read the service's responses: check their shapes, and name a field that is missing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from promptbake import BakeError, Span

NOT_SCORED = -1e4  # nats: the SDK fills cells without a log-probability with -99999


def top_k(answer: Any, span: Span, k: int) -> tuple[Tensor, Tensor]:
    """The top K [N, K] of the response positions, most likely first."""
    arrays = answer.topk_prompt_logprobs_np
    if arrays is None:
        raise bad_field("topk_prompt_logprobs", span)
    ids = torch.from_numpy(arrays.token_ids).long()
    logprobs = torch.from_numpy(arrays.logprobs).float()
    if len(ids) != len(span.tokens) or not ids.shape == logprobs.shape:
        raise bad_field("topk_prompt_logprobs", span, logprobs)
    ids, logprobs = ids[-span.n_response :], logprobs[-span.n_response :]
    if ids.shape[1] > k or bool((logprobs < NOT_SCORED).any()):
        raise bad_field("topk_prompt_logprobs", span, logprobs)
    if ids.shape[1] < k:
        raise BakeError(
            f"teacher.top_k = {k}: the service returns {ids.shape[1]} log-probabilities a "
            "position; lower it"
        )
    order = logprobs.argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), logprobs.gather(1, order)


def alternatives(answer: Any, span: Span) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, log-probabilities and importance weights [N, M] of draws from the whole distribution."""
    ids = answer.prompt_alt_tokens.tokens.to_torch().long()
    logprobs = answer.prompt_alt_tokens.logprobs.to_torch().float()
    if len(ids) != len(span.tokens) - 1 or ids.shape != logprobs.shape:
        raise bad_field("prompt_alt_tokens", span, logprobs)
    ids, logprobs = ids[-span.n_response :], logprobs[-span.n_response :]
    if bool((logprobs < NOT_SCORED).any()):
        raise bad_field("prompt_alt_tokens", span, logprobs)
    return ids, logprobs, (-logprobs).exp() / ids.shape[1]


def describe(span: Span) -> str:
    """What is scored, for a message."""
    return f"{span.name or 'a sequence'}, its scoring"


def bad_field(field: str, span: Span, values: Tensor | None = None) -> BakeError:
    """The error for a response that lacks a field, or has it in the wrong shape."""
    shape = "nothing" if values is None else f"{tuple(values.shape)}"
    return BakeError(
        f"{span.name or 'a sequence'}: the service's answer has {shape} as {field}, for "
        f"{span.n_response} response tokens at the end of {len(span.tokens)}; its other answers "
        "are kept; run the same command to request this one again"
    )
