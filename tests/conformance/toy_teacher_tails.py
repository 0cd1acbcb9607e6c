"""Toy teachers that are faulty in what stands for the tail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from toy_teachers import Answers, Draws, Good, Response

from promptbake.distill.objective import mask_top_k_draws
from promptbake.types import Span


class Unseeded(Good):
    def generator(self, seed: int) -> torch.Generator:
        generator = torch.Generator()
        generator.seed()
        return generator


class SeedsByPlace(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        return super().targets(spans, **how | {"seeds": range(len(spans))})


class OneSeedForAll(Good):
    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(0)


class SeedsTheGlobalGenerator(Good):
    def generator(self, seed: int) -> None:
        torch.manual_seed(seed)


class DrawsUnasked(Good):
    def drawn(self, whole: Tensor, top: Tensor, span: Span, draws: int, seed: int) -> Draws:
        return super().drawn(whole, top, span, max(draws, 1), seed)


class DrawsOneForAll(Good):
    def drawn(self, whole: Tensor, top: Tensor, span: Span, draws: int, seed: int) -> Draws:
        return super().drawn(whole, top, span, min(draws, 1), seed)


class LogProbabilitiesGivenTheTail(Good):
    def some(self, whole: Tensor, top: Tensor, *asked: Any) -> Draws:
        ids, logprobs, measure = super().some(whole, top, *asked)
        rest = -torch.expm1(whole.gather(1, top).logsumexp(dim=1, keepdim=True))
        return ids, logprobs - rest.log(), measure


class CountsTheTopKTwice(Good):
    def tail(self, whole: Tensor, top: Tensor, span: Span) -> Tensor:
        return whole.exp()


class WithTheTailsWeight(CountsTheTopKTwice):
    """Draws from the whole vocabulary, weighted as if they came from the tail."""

    def some(self, whole: Tensor, top: Tensor, *asked: Any) -> Draws:
        ids, logprobs, measure = super().some(whole, top, *asked)
        rest = -torch.expm1(whole.gather(1, top).logsumexp(dim=1, keepdim=True))
        return mask_top_k_draws(top, ids, logprobs, measure * rest)


class EachDrawCountsOnce(Good):
    def some(self, *asked: Any) -> Draws:
        ids, logprobs, measure = super().some(*asked)
        return ids, logprobs, torch.ones_like(measure)


class NotDividedByM(Good):
    def some(self, *asked: Any) -> Draws:
        ids, logprobs, measure = super().some(*asked)
        return ids, logprobs, measure * ids.shape[1]


class DividedByMTwice(Good):
    def some(self, *asked: Any) -> Draws:
        ids, logprobs, measure = super().some(*asked)
        return ids, logprobs, measure / ids.shape[1]


class WithoutReplacement(Good):
    """What torch.multinomial does unless told otherwise."""

    def some(
        self, whole: Tensor, top: Tensor, span: Span, draws: int, generator: torch.Generator | None
    ) -> Draws:
        tail = self.tail(whole, top, span)
        ids = torch.multinomial(tail, draws, generator=generator)
        measure = tail.sum(dim=1, keepdim=True) / (draws * tail.gather(1, ids))
        return ids, whole.gather(1, ids), measure


class DrawsAtTheResponsesTemperature(Good):
    def some(
        self, whole: Tensor, top: Tensor, span: Span, draws: int, generator: torch.Generator | None
    ) -> Draws:
        hot = (whole / span.temperature).exp().scatter(1, top, 0.0)
        ids = torch.multinomial(hot, draws, replacement=True, generator=generator)
        tail = self.tail(whole, top, span)
        measure = tail.sum(dim=1, keepdim=True) / (draws * tail.gather(1, ids))
        return ids, whole.gather(1, ids), measure


class AsIfSampledAtTemperature1(Response):
    def drawn(self, whole: Tensor, top: Tensor, span: Span, draws: int, seed: int) -> Draws:
        return super().drawn(whole, top, replace(span, temperature=1.0), draws, seed)


class CountsTheResponseTwice(Response):
    def weighted(self, top: Tensor, draws: Draws) -> Draws:
        return draws


class SaysThatItDrawsNothing(Good):
    pass


class NoTailAndNoWord(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        return super().targets(spans, **how | {"draws": 0})
