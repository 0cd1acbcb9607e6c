"""Faulty teachers. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import toy_teacher_numbers as numbers
import toy_teacher_tails as tails
from faulty_suites import suite_for, suites_for
from torch import Tensor
from toy_teachers import Answers, ByItself, Good, NoTail, Response

from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.testing import TeacherSuite
from promptbake.types import Message, Span, TeacherLogprobs

KEY = "TOY_TEACHER_KEY"


# How many answers, and to what.


class LeavesTheLastOut(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        answers = list(super().targets(spans, **how))
        yield from answers[:-1]


class AnswersTwice(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        for answer in super().targets(spans, **how):
            yield from (answer, answer)


class CountsFromOne(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        yield from ((index + 1, found) for index, found in super().targets(spans, **how))


class KnowsSpansByTheirTokens(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        where = {span: index for index, span in enumerate(spans)}
        found = super().targets(list(where), **how | {"seeds": how["seeds"][: len(where)]})
        yield from ((where[span], one) for span, (_, one) in zip(where, found, strict=True))


class CountsItsAnswers(Good):
    """The shortest first."""

    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        order = sorted(range(len(spans)), key=lambda index: len(spans[index].tokens))
        sorted_how = how | {"seeds": [how["seeds"][index] for index in order]}
        yield from super().targets([spans[index] for index in order], **sorted_how)


# Their form.


def changed(found: TeacherLogprobs, change: Callable[[Tensor], Tensor]) -> TeacherLogprobs:
    return TeacherLogprobs(*(change(part) for part in vars(found).values()))


class Transposed(Good):
    def answer(self, *asked: Any) -> TeacherLogprobs:
        return changed(super().answer(*asked), torch.t)


class DropsTheLastToken(Good):
    def answer(self, *asked: Any) -> TeacherLogprobs:
        return changed(super().answer(*asked), lambda part: part[:-1])


class Squeezes(Good):
    def answer(self, *asked: Any) -> TeacherLogprobs:
        return changed(super().answer(*asked), torch.squeeze)


class Int32(Good):
    def answer(self, *asked: Any) -> TeacherLogprobs:
        found = super().answer(*asked)
        return replace(found, ids=found.ids.int(), drawn_ids=found.drawn_ids.int())


class Float64(Good):
    def answer(self, *asked: Any) -> TeacherLogprobs:
        return changed(
            super().answer(*asked), lambda part: part.double() if part.is_floating_point() else part
        )


class OneMoreThanK(Good):
    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        return super().top(whole, span, k + 1)


class NoFewerThanFive(Good):
    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        return super().top(whole, span, max(k, 5))


class InTheOrderOfIds(Good):
    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        ids = super().top(whole, span, k)[0].sort(dim=1).values
        return ids, whole.gather(1, ids)


class RepeatsATokenToFillARow(Good):
    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        kept = [min(column, 4) for column in range(k)]
        return tuple(part[:, kept] for part in super().top(whole, span, k))  # type: ignore[return-value]


class FillsARowWithMinusInfinity(Good):
    def top(self, whole: Tensor, span: Span, k: int) -> tuple[Tensor, Tensor]:
        ids, logprobs = super().top(whole, span, k)
        return ids, logprobs.where(torch.arange(k) < 5, -torch.inf)


# What it reads.


class ScoresTheStudent(Good):
    """Renders the conversation anew, and forgets the system prompt."""

    def whole(self, model: Model, span: Span) -> Tensor:
        return super().whole(model, self.unprompted(model, span))

    def unprompted(self, model: Model, span: Span) -> Span:
        (stop,) = model.renderer.stop_ids
        default = model.renderer.prompt((Message("user", "?"),))
        tokens = default[: default.index(stop)] + span.tokens[span.tokens.index(stop) :]
        return replace(span, tokens=tokens)


class RemembersByName(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        first = {span.name: span for span in reversed(spans)}
        known = [replace(first[span.name], temperature=span.temperature) for span in spans]
        return super().targets(known, **how)


class RemembersByThePrompt(Good):
    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], Tensor] = {}

    def whole(self, model: Model, span: Span) -> Tensor:
        prompt = tuple(span.tokens[: -span.n_response])
        if prompt not in self.known:
            self.known[prompt] = super().whole(model, span)
        return self.known[prompt]


class CutsLongPrompts(Good):
    limit = 512

    def whole(self, model: Model, span: Span) -> Tensor:
        return super().whole(model, replace(span, tokens=span.tokens[-self.limit :]))


class CutsAtTheContext(CutsLongPrompts):
    limit = 2048


class PadsWithoutAMask(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        longest = max(len(span.tokens) for span in spans)
        padding = [(0,) * (longest - len(span.tokens)) for span in spans]
        padded = [
            replace(span, tokens=zeros + span.tokens)
            for span, zeros in zip(spans, padding, strict=True)
        ]
        return super().targets(padded, **how)


class SortsInPlace(Good):
    def targets(self, spans: list[Span], **how: Any) -> Answers:  # type: ignore[override]
        where = {id(span): index for index, span in enumerate(spans)}
        seeds = dict(zip(map(id, spans), how["seeds"], strict=True))
        spans.sort(key=lambda span: len(span.tokens))
        if len(where) < len(spans):  # one object twice
            return super().targets(spans, **how)
        found = super().targets(spans, **how | {"seeds": [seeds[id(span)] for span in spans]})
        return ((where[id(spans[index])], one) for index, one in found)


# What happens beside.


class SwallowsErrors(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        try:
            yield from super().targets(spans, **how)
        except BakeError:
            return


class TellsNoReason(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        try:
            yield from super().targets(spans, **how)
        except BakeError as error:
            raise BakeError("the teacher could not be asked") from error


class Prints(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        print(f"asking about {len(spans)} spans")  # noqa: T201
        return super().targets(spans, **how)


class LogsItsKey(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        logging.getLogger("toy").debug("headers: Bearer %s", os.environ[KEY])
        return super().targets(spans, **how)


class ShowsARefusedKey(Good):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        if os.environ[KEY] != "toy-0123456789":
            raise BakeError(f"{KEY}: the service refuses {os.environ[KEY]}")
        return super().targets(spans, **how)


# Teachers of other kinds.


class OpensTheBaseModelInSecret(ByItself):
    def targets(self, spans: Sequence[Span], **how: Any) -> Answers:
        how["open_model"]()
        return super().targets(spans, **how)


class Coarse(Good):
    pass


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "toy-0123456789")


FINITE = "test_its_numbers_are_finite_and_no_log_probability_is_above_zero"
NATS = "test_its_log_probabilities_are_the_models_in_nats"
UNBIASED = "test_its_draws_stand_for_the_tail_without_bias"
SPOILT = {
    LeavesTheLastOut: "test_each_span_is_answered_once",
    AnswersTwice: "test_each_span_is_answered_once",
    CountsFromOne: "test_each_span_is_answered_once",
    KnowsSpansByTheirTokens: "test_each_span_is_answered_once",
    CountsItsAnswers: "test_it_gives_the_index_of_the_span",
    Transposed: "test_each_response_token_has_a_row",
    DropsTheLastToken: "test_each_response_token_has_a_row",
    Squeezes: "test_each_response_token_has_a_row",
    Int32: "test_its_tensors_have_the_promised_types",
    Float64: "test_its_tensors_have_the_promised_types",
    OneMoreThanK: "test_it_gives_as_many_log_probabilities_as_it_is_asked_for",
    NoFewerThanFive: "test_it_gives_as_many_log_probabilities_as_it_is_asked_for",
    InTheOrderOfIds: "test_each_row_holds_different_tokens_most_likely_first",
    RepeatsATokenToFillARow: "test_each_row_holds_different_tokens_most_likely_first",
    FillsARowWithMinusInfinity: FINITE,
    numbers.NegativeLogProbabilities: FINITE,
    numbers.Bits: NATS,
    numbers.Probabilities: NATS,
    numbers.HalfPrecision: NATS,
    numbers.Logits: NATS,
    numbers.RenormalisedOverK: NATS,
    numbers.TheNextPositions: NATS,
    numbers.ThePositionsBefore: NATS,
    numbers.AtTheResponsesTemperature: (
        "test_it_is_at_temperature_1_whatever_the_response_was_sampled_at"
    ),
    numbers.SamplesOfTheTopK: "test_nothing_that_it_leaves_out_is_likelier",
    numbers.TheResponsesTokenIsTheLast: "test_nothing_that_it_leaves_out_is_likelier",
    ScoresTheStudent: "test_it_reads_the_system_prompt",
    RemembersByName: "test_it_reads_the_system_prompt",
    RemembersByThePrompt: "test_it_reads_the_response",
    CutsLongPrompts: "test_it_reads_a_long_prompt_from_its_beginning",
    CutsAtTheContext: "test_what_does_not_fit_the_context_is_not_cut",
    PadsWithoutAMask: "test_an_answer_does_not_depend_on_its_company",
    tails.SeedsByPlace: "test_an_answer_does_not_depend_on_its_company",
    SortsInPlace: "test_it_leaves_its_input_as_it_was",
    tails.Unseeded: "test_the_same_question_has_the_same_answer",
    tails.OneSeedForAll: "test_another_seed_makes_other_draws",
    tails.SeedsTheGlobalGenerator: "test_the_global_random_numbers_stay_as_they_are",
    tails.DrawsUnasked: "test_it_draws_nothing_where_nothing_is_asked_for",
    tails.DrawsOneForAll: "test_it_gives_as_many_draws_as_it_says",
    tails.LogProbabilitiesGivenTheTail: "test_draws_have_the_models_log_probabilities",
    tails.CountsTheTopKTwice: "test_a_draw_from_the_top_k_counts_for_nothing",
    tails.WithTheTailsWeight: UNBIASED,
    tails.EachDrawCountsOnce: UNBIASED,
    tails.NotDividedByM: UNBIASED,
    tails.DividedByMTwice: UNBIASED,
    tails.WithoutReplacement: UNBIASED,
    tails.DrawsAtTheResponsesTemperature: UNBIASED,
    SwallowsErrors: "test_an_error_of_the_base_model_goes_on",
    TellsNoReason: "test_an_error_of_the_base_model_goes_on",
    Prints: "test_it_prints_nothing",
    LogsItsKey: "test_its_keys_are_told_to_nobody",
    ShowsARefusedKey: "test_a_refused_key_is_told_to_nobody",
}
OTHER_KINDS = (
    (
        Response,
        {
            tails.AsIfSampledAtTemperature1: "test_without_draws_the_response_stands_for_the_tail",
            tails.CountsTheResponseTwice: "test_a_draw_from_the_top_k_counts_for_nothing",
            tails.SaysThatItDrawsNothing: "test_it_gives_as_many_draws_as_it_says",
        },
        {"draws_itself": False},
    ),
    (
        NoTail,
        {tails.NoTailAndNoWord: "test_it_refuses_draws_that_it_cannot_make"},
        {"stands_for_the_tail": False},
    ),
    (
        ByItself,
        {OpensTheBaseModelInSecret: "test_it_opens_the_base_model_if_it_says_so"},
        {"asks_base_model": False},
    ),
    (Good, {Coarse: "test_its_flags_let_mistakes_be_seen"}, {"tolerance": 10.0}),
)

globals().update(suites_for(TeacherSuite, "teacher", Good, SPOILT, keys=(KEY,)))
for good, faulty, flags in OTHER_KINDS:
    for make, caught_by in faulty.items():
        globals()[f"Test{make.__name__}"] = suite_for(
            TeacherSuite, "teacher", make, caught_by, **flags
        )
    if good is not Good:
        globals()[f"Test{good.__name__}"] = suite_for(TeacherSuite, "teacher", good, **flags)
