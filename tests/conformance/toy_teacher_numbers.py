"""Toy teachers that are faulty in their top K and its log-probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from toy_teachers import Good

from promptbake.interfaces import Model
from promptbake.types import Span, TeacherLogprobs


class Numbers(Good):
    """With other numbers for the same tokens."""

    def answer(self, *asked: Any) -> TeacherLogprobs:
        found = super().answer(*asked)
        return replace(
            found,
            logprobs=self.numbers(found.logprobs),
            drawn_logprobs=self.numbers(found.drawn_logprobs),
        )

    def numbers(self, logprobs: Tensor) -> Tensor:
        raise NotImplementedError


class Bits(Numbers):
    def numbers(self, logprobs: Tensor) -> Tensor:
        return logprobs / math.log(2)


class Probabilities(Numbers):
    def numbers(self, logprobs: Tensor) -> Tensor:
        return logprobs.exp()


class NegativeLogProbabilities(Numbers):
    def numbers(self, logprobs: Tensor) -> Tensor:
        return -logprobs


class HalfPrecision(Numbers):
    def numbers(self, logprobs: Tensor) -> Tensor:
        return logprobs.bfloat16().float()


class Logits(Good):
    def whole(self, model: Model, span: Span) -> Tensor:
        found = super().whole(model, span)
        return found + torch.arange(len(found)).unsqueeze(1) % 3 + 5


class RenormalisedOverK(Good):
    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        ids, logprobs = super().top(whole, span, k)
        return ids, logprobs.log_softmax(dim=1)


class AtTheResponsesTemperature(Good):
    def answer(self, whole: Tensor, span: Span, *asked: Any) -> TeacherLogprobs:
        return super().answer((whole / span.temperature).log_softmax(dim=1), span, *asked)


class TheNextPositions(Good):
    """The last N rows of the logits."""

    def whole(self, model: Model, span: Span) -> Tensor:
        return super().whole(model, Span((*span.tokens, 0), span.n_response))


class ThePositionsBefore(Good):
    def whole(self, model: Model, span: Span) -> Tensor:
        return super().whole(model, Span(span.tokens[:-1], span.n_response))


class SamplesOfTheTopK(Good):
    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        ids = torch.multinomial(whole.exp(), k, generator=generator)
        logprobs = whole.gather(1, ids).sort(dim=1, descending=True)
        return ids.gather(1, logprobs.indices), logprobs.values


class TheResponsesTokenIsTheLast(Good):
    """As a service does that lists the prompt's own token in any case."""

    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        ids, _ = super().top(whole, span, k)
        own = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
        ids = torch.where(
            (ids == own).any(dim=1, keepdim=True), ids, torch.cat([ids[:, :-1], own], dim=1)
        )
        return ids, whole.gather(1, ids)
