"""Faulty scoring. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from faulty_suites import suites_for
from torch import Tensor
from toy_backend import Toy, backend_of

from promptbake.distill.objective import mask_top_k_draws, response_token_as_draw
from promptbake.testing.backends.samples import SampleTests
from promptbake.testing.backends.scores import ScoringTests
from promptbake.testing.backends.targets import TargetTests
from promptbake.types import Completion, Span, TeacherLogprobs, TokenIds
from promptbake_torch.model import TorchModel


class Named(TorchModel):
    """Scores named tokens alone."""

    full_vocabulary = False

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        if ids is None:
            raise ValueError("named tokens alone")
        return super().logprobs(spans, ids)


class Realised(TorchModel):
    """Draws nothing: the response stands for the tail."""

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        for index, found in super().top_k(spans, k=k, draws=0, seeds=seeds):
            if draws:
                (whole,) = self.logprobs([spans[index]])
                own = torch.tensor(spans[index].tokens[-len(whole) :]).unsqueeze(1)
                drawn = response_token_as_draw(
                    spans[index], whole.gather(1, own).squeeze(1), found.logprobs
                )
                found = TeacherLogprobs(
                    found.ids, found.logprobs, *mask_top_k_draws(found.ids, *drawn)
                )
            yield index, found


# --- what it says of itself


class HasAnotherName(TorchModel):
    name = "llama"


class HasOneNotice(TorchModel):
    warnings = "There is much to say."


class SaysNothingOfItsContext(TorchModel):
    context_tokens = 0


# --- scoring


class Bits(TorchModel):
    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        return (found / math.log(2) for found in super()._scores(spans, batch))


class NamedInBits(Bits, Named):
    pass


class Logits(TorchModel):
    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        for span in spans:
            (logits,) = self._logits([span])
            yield logits


class NamedLogits(Logits, Named):
    pass


class ScoredAtATemperature(TorchModel):
    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        return ((found / 2).log_softmax(dim=1) for found in super()._scores(spans, batch))


class ScoredATokenLate(TorchModel):
    """The logits of each token itself, which predict the next one."""

    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        for span in spans:
            (found,) = super()._scores([replace(span, tokens=(*span.tokens, 0))], 1)
            yield found


class ScoredATokenEarly(TorchModel):
    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        for span in spans:
            n = span.n_response
            longer = replace(span, n_response=min(n + 1, len(span.tokens) - 1))
            (found,) = super()._scores([longer], 1)
            yield found[:n]


class Transposed(TorchModel):
    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        return (found.T for found in super().logprobs(spans, ids))


class ScoresThePromptToo(TorchModel):
    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        for span, found in zip(spans, super().logprobs(spans, ids), strict=True):
            yield torch.cat([found.new_zeros(len(span.tokens) - len(found), found.shape[1]), found])


class ShortestFirst(TorchModel):
    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        order = sorted(range(len(spans)), key=lambda index: len(spans[index].tokens))
        some = None if ids is None else [ids[index] for index in order]
        return super().logprobs([spans[index] for index in order], some)


class PadsInSight(TorchModel):
    """The padding has no mask."""

    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        longest = max(len(span.tokens) for span in spans)
        padded = [
            replace(span, tokens=(0,) * (longest - len(span.tokens)) + span.tokens)
            for span in spans
        ]
        return super()._scores(padded, batch)


class GathersByTheFirstRow(TorchModel):
    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        some = None if ids is None else [each[:1].expand_as(each) for each in ids]
        return super().logprobs(spans, some)


class SortsTheIds(TorchModel):
    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        some = None if ids is None else [each.sort(dim=1).values for each in ids]
        return super().logprobs(spans, some)


class TheResponseComesFirst(TorchModel):
    """The rows after the first assistant's turn that it finds, whatever `n_response` says."""

    def _scores(self, spans: Sequence[Span], batch: int) -> Iterator[Tensor]:
        for span in spans:
            n = span.n_response
            whole = replace(span, n_response=min(2 * n, len(span.tokens) - 1))
            (found,) = super()._scores([whole], 1)
            yield found[:n] if n < 10 else found[-n:]


class CutsWhatIsTooLong(TorchModel):
    def _logits(self, spans: Sequence[Span]) -> list[Tensor]:
        room = self.context_tokens
        return super()._logits([replace(span, tokens=span.tokens[-room:]) for span in spans])


class CutsPromptsThatAreTooLong(TorchModel):
    def sample(self, prompts: Sequence[TokenIds], **how: Any) -> Iterator[tuple[int, Completion]]:
        room = self.context_tokens - how["max_tokens"]
        return super().sample([prompt[-room:] for prompt in prompts], **how)


class FailsAtNothing(TorchModel):
    def sample(self, prompts: Sequence[TokenIds], **how: Any) -> Iterator[tuple[int, Completion]]:
        max(map(len, prompts))
        return super().sample(prompts, **how)


# --- the top K and the draws


class FaultyTargets(TorchModel):
    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        for index, found in super().top_k(spans, k=k, draws=draws, seeds=seeds):
            yield index, self.faulty(found, spans[index])

    def faulty(self, found: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        return found


class LeastLikelyFirst(FaultyTargets):
    def faulty(self, found: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        return replace(found, ids=found.ids.flip(1), logprobs=found.logprobs.flip(1))


class LeavesTheLikeliestOut(TorchModel):
    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        for index, found in super().top_k(spans, k=k + 1, draws=draws, seeds=seeds):
            yield index, replace(found, ids=found.ids[:, 1:], logprobs=found.logprobs[:, 1:])


class NormalisesTheTopK(FaultyTargets):
    def faulty(self, found: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        return replace(found, logprobs=found.logprobs.log_softmax(dim=1))


class AnswersInReverse(TorchModel):
    def top_k(self, spans: Sequence[Span], **how: Any) -> Iterator[tuple[int, TeacherLogprobs]]:
        last = len(spans) - 1
        return ((last - index, found) for index, found in super().top_k(spans, **how))


class DrawsFromTheWholeVocabulary(FaultyTargets):
    """And takes the top K among them for the tail."""

    def faulty(self, found: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        (whole,) = self.logprobs([span])
        generator = torch.Generator().manual_seed(0)
        m = max(found.drawn_ids.shape[1], 1)
        ids = whole.exp().multinomial(m, replacement=True, generator=generator)
        logprobs = whole.gather(1, ids)
        return replace(
            found,
            drawn_ids=ids,
            drawn_logprobs=logprobs,
            drawn_importance_weights=(-logprobs).exp() / m,
        )


class MeasuresOneDraw(FaultyTargets):
    """The measure lacks 1 / M."""

    def faulty(self, found: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        m = max(found.drawn_ids.shape[1], 1)
        return replace(found, drawn_importance_weights=found.drawn_importance_weights * m)


class TakesTheTailForAll(FaultyTargets):
    """The measure lacks the tail's probability."""

    def faulty(self, found: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        m = max(found.drawn_ids.shape[1], 1)
        return replace(found, drawn_importance_weights=(-found.drawn_logprobs).exp() / m)


class DrawsTheLikeliest(FaultyTargets):
    """The tail's likeliest token, again and again."""

    def faulty(self, found: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        (whole,) = self.logprobs([span])
        tail = whole.scatter(1, found.ids, -torch.inf)
        ids = tail.argmax(dim=1, keepdim=True).expand_as(found.drawn_ids)
        m = max(found.drawn_ids.shape[1], 1)
        logprobs = whole.gather(1, ids)
        mass = tail.exp().sum(dim=1, keepdim=True)
        return replace(
            found,
            drawn_ids=ids,
            drawn_logprobs=logprobs,
            drawn_importance_weights=mass / (m * logprobs.exp()),
        )


class DrawsFromAGlobalGenerator(TorchModel):
    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        anew = [int(torch.randint(2**31, (1,))) for _ in spans]
        return super().top_k(spans, k=k, draws=draws, seeds=anew)


class SeedsDrawsByTheirPlace(TorchModel):
    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        placed = [seed + 100 * index for index, seed in enumerate(seeds)]
        return super().top_k(spans, k=k, draws=draws, seeds=placed)


SCORES = {
    HasAnotherName: "test_it_says_what_it_is",
    HasOneNotice: "test_it_says_what_it_is",
    SaysNothingOfItsContext: "test_it_says_what_it_is",
    Bits: "test_the_whole_vocabulary_is_normalised",
    Logits: "test_the_whole_vocabulary_is_normalised",
    NamedLogits: "test_named_tokens_are_scored_at_each_response_position",
    ScoredATokenLate: "test_a_position_is_scored_by_what_stands_before_it",
    ScoredATokenEarly: "test_a_position_is_scored_by_what_stands_before_it",
    Transposed: "test_named_tokens_are_scored_at_each_response_position",
    ScoresThePromptToo: "test_named_tokens_are_scored_at_each_response_position",
    ShortestFirst: "test_spans_are_scored_in_their_order_and_not_by_their_company",
    PadsInSight: "test_spans_are_scored_in_their_order_and_not_by_their_company",
    GathersByTheFirstRow: "test_each_position_is_scored_for_its_own_ids",
    SortsTheIds: "test_each_position_is_scored_for_its_own_ids",
    TheResponseComesFirst: "test_the_rows_are_the_last_ones_of_the_span",
    CutsWhatIsTooLong: "test_what_is_longer_than_the_context_is_refused",
    CutsPromptsThatAreTooLong: "test_what_is_longer_than_the_context_is_refused",
    FailsAtNothing: "test_asked_for_nothing_it_gives_nothing",
}
TARGETS = {
    LeastLikelyFirst: "test_the_top_k_are_the_most_likely_tokens",
    LeavesTheLikeliestOut: "test_the_top_k_are_the_most_likely_tokens",
    NormalisesTheTopK: "test_the_top_k_are_the_most_likely_tokens",
    AnswersInReverse: "test_a_spans_top_k_do_not_depend_on_its_company",
    DrawsFromTheWholeVocabulary: "test_the_draws_stand_for_what_is_outside_the_top_k",
    MeasuresOneDraw: "test_the_draws_stand_for_what_is_outside_the_top_k",
    TakesTheTailForAll: "test_the_draws_stand_for_what_is_outside_the_top_k",
    DrawsTheLikeliest: "test_the_draws_stand_for_what_is_outside_the_top_k",
    DrawsFromAGlobalGenerator: "test_each_spans_draws_have_their_own_seed",
    SeedsDrawsByTheirPlace: "test_each_spans_draws_have_their_own_seed",
}
UNITS = {
    NamedInBits: "test_tokens_are_as_frequent_as_they_are_probable",
    ScoredAtATemperature: "test_tokens_are_as_frequent_as_they_are_probable",
}

for suite, faulty in ((ScoringTests, SCORES), (TargetTests, TARGETS), (SampleTests, UNITS)):
    models = {backend_of(model): caught_by for model, caught_by in faulty.items()}
    globals().update(suites_for(suite, "backend", Toy, models))
    globals()[f"TestGood{suite.__name__}"] = globals().pop("TestGood")
TestGoodRealised = suites_for(TargetTests, "backend", backend_of(Realised), {})["TestGood"]
TestGoodNamed, TestGoodNamedDraws = (
    suites_for(suite, "backend", backend_of(Named), {})["TestGood"]
    for suite in (ScoringTests, TargetTests)
)
