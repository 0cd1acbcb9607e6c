"""Spans for a teacher to score, and the tiny model's own distribution at their responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from promptbake.testing.tiny import tiny_model
from promptbake.types import Span

Reference = Callable[[Span], Tensor]  # to the log-probabilities [N, V], in nats


@cache
def tiny_logprobs(span: Span) -> Tensor:
    """All log-probabilities [N, V] at a span's response: of the tiny model, without any plugin."""
    with torch.inference_mode():
        logits = _tiny()(torch.tensor([span.tokens])).logits[0].float()
    logprobs: Tensor = logits[-span.n_response - 1 : -1].log_softmax(dim=1)  # of the next token
    return logprobs


def cut(span: Span, n_response: int) -> Span:
    """The same with the first tokens of its response only."""
    return Span(span.tokens[: len(span.tokens) - span.n_response + n_response], n_response)


def lengthened(span: Span, tokens: int) -> Span:
    """The same with its prompt repeated before it, up to so many tokens."""
    prompt = span.tokens[: -span.n_response]
    filler = prompt * (tokens // len(prompt))
    return Span(filler[: tokens - len(span.tokens)] + span.tokens, span.n_response, "a long one")


def mixed(span: Span, reference: Reference, k: int, n_response: int = 8) -> Span:
    """With another response, of which every other token is one of the top K."""
    tokens = span.tokens[: -span.n_response]
    for number in range(n_response):
        likely = reference(Span((*tokens, 0), 1))[0].argsort(descending=True)
        tokens += (int(likely[0 if number % 2 == 0 else k + 2]),)
    return Span(tokens, n_response, "a mixed one")


@cache
def _tiny() -> Any:
    return tiny_model()
