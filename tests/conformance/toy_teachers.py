"""Toy teachers that are as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from promptbake.distill.objective import mask_top_k_draws, response_token_as_draw
from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.testing.teachers.spans import plain
from promptbake.types import Span, TeacherLogprobs

Answers = Iterator[tuple[int, TeacherLogprobs]]
Draws = tuple[Tensor, Tensor, Tensor]  # ids, log-probabilities, measure: [N, M] each


@cache
def scored(model: Model, span: Span) -> Tensor:
    (found,) = model.logprobs([span])
    return found


class Good:
    """The base model's top K, and draws from its tail."""

    def targets(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Answers:
        model = open_model()
        for index, (span, seed) in enumerate(zip(spans, seeds, strict=True)):
            yield index, self.answer(self.whole(model, span), span, k, draws, seed)

    def whole(self, model: Model, span: Span) -> Tensor:
        return scored(model, span)

    def answer(self, whole: Tensor, span: Span, k: int, draws: int, seed: int) -> TeacherLogprobs:
        ids, logprobs = self.top(whole, span, k)
        return TeacherLogprobs(ids, logprobs, *self.drawn(whole, ids, span, draws, seed))

    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        top = whole.topk(k, dim=1)
        return top.indices, top.values

    def drawn(self, whole: Tensor, top: Tensor, span: Span, draws: int, seed: int) -> Draws:
        if not draws:
            nothing = torch.zeros(len(top), 0)
            return nothing.long(), nothing, nothing
        return self.some(whole, top, span, draws, self.generator(seed))

    def generator(self, seed: int) -> torch.Generator | None:
        return torch.Generator().manual_seed(seed)

    def some(
        self,
        whole: Tensor,
        top: Tensor,
        span: Span,
        draws: int,
        generator: torch.Generator | None,
    ) -> Draws:
        tail = self.tail(whole, top, span)
        ids = torch.multinomial(tail, draws, replacement=True, generator=generator)
        with_it = tail / tail.sum(dim=1, keepdim=True)
        return ids, whole.gather(1, ids), 1 / (draws * with_it.gather(1, ids))

    def tail(self, whole: Tensor, top: Tensor, span: Span) -> Tensor:
        return whole.exp().scatter(1, top, 0.0)


class Response(Good):
    """Draws nothing: the response's own token stands for the tail."""

    def drawn(self, whole: Tensor, top: Tensor, span: Span, draws: int, seed: int) -> Draws:
        if not draws:
            return super().drawn(whole, top, span, draws, seed)
        own = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
        likelier = whole.gather(1, top)
        return self.weighted(
            top, response_token_as_draw(span, whole.gather(1, own).squeeze(1), likelier)
        )

    def weighted(self, top: Tensor, draws: Draws) -> Draws:
        return mask_top_k_draws(top, *draws)


class NoTail(Good):
    """Cannot say anything of the tail."""

    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        if how["draws"]:
            raise BakeError("teacher.source = 'toy': has no draws; set train.tail=bucket")
        return super().targets(spans, **how)


class ByItself(Good):
    """Has the model already."""

    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        return super().targets(spans, **how | {"open_model": lambda: None})

    def whole(self, model: Model, span: Span) -> Tensor:
        return plain(span)
