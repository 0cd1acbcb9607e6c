"""Good teachers, of each kind that TeacherSuite has flags for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.testing.teachers.spans import tiny_logprobs
from promptbake.types import Span, TeacherLogprobs

Results = Iterator[tuple[int, TeacherLogprobs]]
Draws = tuple[Tensor, Tensor, Tensor]  # ids, log-probabilities, importance weights: [N, M] each


class Good:
    """The base model's top K, and draws from its tail."""

    samples_tail = True

    def score(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Results:
        model = open_model()
        for index, (span, seed) in enumerate(zip(spans, seeds, strict=True)):
            yield index, self.result(self.whole(model, span), span, k, draws, seed)

    def whole(self, model: Model, span: Span) -> Tensor:
        if len(span.tokens) > model.context_tokens:
            raise BakeError("the span is longer than the context")
        return tiny_logprobs(span)

    def result(self, whole: Tensor, span: Span, k: int, draws: int, seed: int) -> TeacherLogprobs:
        ids, logprobs = self.top(whole, span, k)
        return TeacherLogprobs(ids, logprobs, *self.drawn(whole, ids, span, draws, seed))

    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        top = whole.topk(k, dim=1)
        return top.indices, top.values

    def drawn(self, whole: Tensor, top: Tensor, span: Span, draws: int, seed: int) -> Draws:
        ids = top[:, :0]
        probabilities = self.probabilities(whole, top, span)
        if draws:
            ids = torch.multinomial(
                probabilities, draws, self.replacement, generator=self.generator(seed)
            )
        return ids, whole.gather(1, ids), 1 / (draws * self.drawn_with(whole, top, ids))

    replacement = True

    def generator(self, seed: int) -> torch.Generator | None:
        return torch.Generator().manual_seed(seed)

    def probabilities(self, whole: Tensor, top: Tensor, span: Span) -> Tensor:
        """What the draws are drawn with, up to a factor."""
        return self.tail(whole, top)

    def drawn_with(self, whole: Tensor, top: Tensor, ids: Tensor) -> Tensor:
        tail = self.tail(whole, top)
        return (tail / tail.sum(dim=1, keepdim=True)).gather(1, ids)

    def tail(self, whole: Tensor, top: Tensor) -> Tensor:
        return whole.exp().scatter(1, top, 0.0)


class NoTail(Good):
    """Knows nothing of the tail."""

    samples_tail = False

    def score(self, spans: Sequence[Span], **options: Any) -> Results:
        if options["draws"]:
            raise BakeError("teacher.source = 'toy': has no draws; set train.tail=bucket")
        return super().score(spans, **options)


class OwnModel(Good):
    """Has the model already."""

    def score(self, spans: Sequence[Span], **options: Any) -> Results:
        return super().score(spans, **options | {"open_model": lambda: None})

    def whole(self, model: Model, span: Span) -> Tensor:
        return tiny_logprobs(span)
