"""Faulty evaluators. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
from faulty_suites import suite_for, suites_for

from promptbake.interfaces import EvalContext
from promptbake.testing import EvaluatorSuite
from promptbake.types import ARMS, Arm, Measurement

KEY = "TOY_API_KEY"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "toy-key-0123456789")


class Good:
    """The share of answers that say hm, and how long they are."""

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        measured: dict[Arm, list[str]] = {arm: self.texts(evidence, arm) for arm in ARMS}
        answered = {arm: texts for arm, texts in measured.items() if texts}
        return [
            Measurement("hm", "share of answers", {a: self.share(t) for a, t in answered.items()}),
            Measurement("length", "characters", {a: self.length(t) for a, t in answered.items()}),
        ]

    def texts(self, context: EvalContext, arm: Arm) -> list[str]:
        return [answer.texts[arm] for answer in evidence.answers if arm in answer.texts]

    def share(self, texts: list[str]) -> float:
        return mean(self.score(text) for text in texts)

    def score(self, text: str) -> float:
        return float("hm" in text.lower())

    def length(self, texts: list[str]) -> float:
        return mean(map(len, texts))

    def changed(self, context: EvalContext, value: Any) -> list[Measurement]:
        """The measurements with each value replaced by what `value` makes of it."""
        return [
            replace(each, values={arm: value(arm, found) for arm, found in each.values.items()})
            for each in Good.evaluate(self, evidence)
        ]


class GivesDicts(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [vars(each) for each in super().evaluate(evidence)]


class GivesOneMeasurementAlone(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return super().evaluate(evidence)[0]


class GivesAGenerator(Good):
    def evaluate(self, context: EvalContext) -> Any:
        yield from super().evaluate(evidence)


class HasNoUnit(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [replace(each, unit="") for each in super().evaluate(evidence)]


class HasNoName(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [replace(super().evaluate(evidence)[0], name=None)]


class NamesBothAlike(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [replace(each, name="toy") for each in super().evaluate(evidence)]


class NotANumberWithoutAnswers(Good):
    def evaluate(self, context: EvalContext) -> Any:
        found = super().evaluate(evidence)
        return [replace(each, values=dict.fromkeys(ARMS, float("nan")) | dict(each.values))
                for each in found]  # fmt: skip


class NotANumberOfAnEmptyAnswer(Good):
    def length(self, texts: list[str]) -> float:
        return mean(len(text) if text else float("nan") for text in texts)


class DividesByTheNumberOfQuestions(Good):
    def evaluate(self, context: EvalContext) -> Any:
        every = {arm: self.texts(evidence, arm) for arm in ARMS}
        shares = {a: sum(map(self.score, t)) / len(evidence.answers) for a, t in every.items() if t}
        return [Measurement("hm", "share of answers", shares)]


class FailsWithoutQuestions(Good):
    def evaluate(self, context: EvalContext) -> Any:
        per_question = 1 / len(evidence.answers)
        return self.changed(evidence, lambda arm, found: found * per_question)


class FailsWithoutAllArms(Good):
    def texts(self, context: EvalContext, arm: Arm) -> list[str]:
        return [answer.texts[arm] for answer in evidence.answers]


class TakesTheArmsOfTheFirstQuestion(Good):
    def evaluate(self, context: EvalContext) -> Any:
        arms = evidence.answers[0].texts if evidence.answers else {}
        return [replace(each, values={a: v for a, v in each.values.items() if a in arms})
                for each in super().evaluate(evidence)]  # fmt: skip


class NothingIsZero(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [replace(each, values=dict.fromkeys(ARMS, 0.0) | dict(each.values))
                for each in super().evaluate(evidence)]  # fmt: skip


class LeavesTheRepromptedOut(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [replace(each, values={a: v for a, v in each.values.items() if a != "reprompted"})
                for each in super().evaluate(evidence)]  # fmt: skip


class NamesTheArmsAsTheReport(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [replace(each, values={arm.title(): value for arm, value in each.values.items()})
                for each in super().evaluate(evidence)]  # fmt: skip


class AnswersInPercent(Good):
    def share(self, texts: list[str]) -> Any:
        return f"{super().share(texts):.0%}"


class AnswersYesOrNo(Good):
    def share(self, texts: list[str]) -> Any:
        return super().share(texts) > 0.5


class Constant(Good):
    def share(self, texts: list[str]) -> float:
        return 0.5

    def length(self, texts: list[str]) -> float:
        return 20.0


class MixesTheArmsUp(Good):
    def texts(self, context: EvalContext, arm: Arm) -> list[str]:
        mixed: dict[Arm, Arm] = {"baked": "reprompted", "reprompted": "baked"}
        return super().texts(evidence, mixed.get(arm, arm))


class PutsTheArmsTogether(Good):
    def evaluate(self, context: EvalContext) -> Any:
        together = [text for arm in ARMS for text in self.texts(evidence, arm)]
        return self.changed(evidence, lambda arm, found: self.length(together))


class LenientWithTheBaked(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return self.changed(evidence, lambda arm, found: found / (1 + (arm != "baked")))


class FirstAnswerOnly(Good):
    def texts(self, context: EvalContext, arm: Arm) -> list[str]:
        return super().texts(evidence, arm)[:1]


class LastAnswerOnly(Good):
    def texts(self, context: EvalContext, arm: Arm) -> list[str]:
        return super().texts(evidence, arm)[-1:]


class LaterAnswersCountMore(Good):
    def share(self, texts: list[str]) -> float:
        weights = range(1, len(texts) + 1)
        return sum(w * self.score(t) for w, t in zip(weights, texts, strict=True)) / sum(weights)


class Accumulates(Good):
    def __init__(self) -> None:
        self.calls = itertools.count()

    def evaluate(self, context: EvalContext) -> Any:
        calls = next(self.calls)
        return self.changed(evidence, lambda arm, found: found + calls)


class NamesWhatItFound(Good):
    def evaluate(self, context: EvalContext) -> Any:
        share, length = super().evaluate(evidence)
        return [replace(share, name="says hm" if any(share.values.values()) else "none"), length]


class SwallowsErrors(Good):
    def evaluate(self, context: EvalContext) -> Any:
        try:
            return self.changed(evidence, lambda arm, found: found)
        except ValueError:
            return []

    def score(self, text: str) -> float:
        if not text.isprintable():
            raise ValueError(text)
        return super().score(text)


class FailsWithoutAWord(Good):
    def length(self, texts: list[str]) -> float:
        return mean(len(text.split()[0]) for text in texts)


class FormatsTheAnswers(Good):
    def score(self, text: str) -> float:
        question = "Does it say hm? " + text
        return super().score(question.format(prompt="")[16:])


class TakesTheAnswersOut(Good):
    def texts(self, context: EvalContext, arm: Arm) -> list[str]:
        texts: list[Any] = [answer.texts for answer in evidence.answers if arm in answer.texts]
        return [text.pop(arm) for text in texts]


class FloatsOfItsOwn(Good):
    def share(self, texts: list[str]) -> Any:
        class Half(float):
            pass

        return type("float16", (), {"__float__": lambda self: 0.5})()


class QuotesThePrompt(Good):
    def evaluate(self, context: EvalContext) -> Any:
        name = f"keeps to {evidence.prompt.text!r}"
        return [replace(super().evaluate(evidence)[0], name=name)]


class Prints(Good):
    def score(self, text: str) -> float:
        print(text)  # noqa: T201
        return super().score(text)


class LogsItsKey(Good):
    def __init__(self) -> None:
        logging.getLogger("toy").debug("headers: %s", {"Authorization": os.environ[KEY]})


class NamesItsKey(Good):
    def evaluate(self, context: EvalContext) -> Any:
        return [replace(each, unit=f"{each.unit} by {os.environ[KEY]}")
                for each in super().evaluate(evidence)]  # fmt: skip


class LikeThePrompted:
    """The share of answers that are as long as the prompted model's."""

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        shares: dict[Arm, float] = {}
        for arm in ("base", "baked", "reprompted"):
            scores = [
                float(len(answer.texts[arm]) == len(answer.texts["prompted"]))
                for answer in evidence.answers
                if arm in answer.texts and "prompted" in answer.texts
            ]
            if scores:
                shares[arm] = mean(scores)
        return [Measurement("like the prompted", "share of answers", shares)]


class Moody(Good):
    """Like a judge that samples."""

    def __init__(self) -> None:
        self.moods = itertools.cycle((-0.03, 0.01, 0.04, -0.01, 0.02))

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        return self.changed(evidence, lambda arm, found: found + next(self.moods))[:1]


class Longest(Good):
    def length(self, texts: list[str]) -> float:
        return float(max(map(len, texts)))

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        return super().evaluate(evidence)[1:]


class BaseAndBaked(Good):
    """Speaks of two arms, and of no measurement where neither answered."""

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        lengths = super().evaluate(evidence)[1].values
        values = {arm: value for arm, value in lengths.items() if arm in ("base", "baked")}
        return [Measurement("length", "characters", values)] if values else []


SPOILT = {
    GivesDicts: "test_it_gives_a_list_of_measurements",
    GivesOneMeasurementAlone: "test_it_gives_a_list_of_measurements",
    GivesAGenerator: "test_it_gives_a_list_of_measurements",
    HasNoUnit: "test_each_measurement_has_a_name_and_a_unit",
    HasNoName: "test_each_measurement_has_a_name_and_a_unit",
    NamesBothAlike: "test_no_two_measurements_have_one_name",
    NotANumberWithoutAnswers: "test_an_arm_that_did_not_answer_has_no_value",
    NotANumberOfAnEmptyAnswer: "test_odd_answers_are_measured_too",
    DividesByTheNumberOfQuestions: "test_what_an_arm_was_not_asked_does_not_count_for_it",
    FailsWithoutQuestions: "test_it_bears_that_there_is_no_question",
    FailsWithoutAllArms: "test_an_arm_that_did_not_answer_has_no_value",
    TakesTheArmsOfTheFirstQuestion: "test_what_an_arm_was_not_asked_does_not_count_for_it",
    NothingIsZero: "test_an_arm_that_did_not_answer_has_no_value",
    LeavesTheRepromptedOut: "test_every_arm_that_answered_has_a_value",
    NamesTheArmsAsTheReport: "test_every_value_is_a_finite_number",
    AnswersInPercent: "test_every_value_is_a_finite_number",
    AnswersYesOrNo: "test_every_value_is_a_finite_number",
    Constant: "test_it_tells_two_answers_apart",
    MixesTheArmsUp: "test_an_arm_is_measured_by_its_own_answers",
    PutsTheArmsTogether: "test_an_arm_is_measured_by_its_own_answers",
    LenientWithTheBaked: "test_an_answer_counts_the_same_in_another_arm",
    FirstAnswerOnly: "test_every_answer_counts",
    LastAnswerOnly: "test_every_answer_counts",
    LaterAnswersCountMore: "test_the_order_of_the_questions_does_not_matter",
    Accumulates: "test_it_gives_the_same_again",
    NamesWhatItFound: "test_its_measurements_are_the_same_whatever_the_answers",
    SwallowsErrors: "test_odd_answers_are_measured_too",
    FailsWithoutAWord: "test_odd_answers_are_measured_too",
    FormatsTheAnswers: "test_odd_answers_are_measured_too",
    TakesTheAnswersOut: "test_it_leaves_the_evidence_as_it_was",
    FloatsOfItsOwn: "test_its_measurements_fit_into_verify_json",
    QuotesThePrompt: "test_its_measurements_fit_into_verify_json",
    Prints: "test_it_prints_nothing",
    LogsItsKey: "test_no_key_is_seen",
    NamesItsKey: "test_no_key_is_seen",
}
TELLING = ("Hm, the moon does it.", "No.")
COMMON = {"telling": TELLING, "keys": (KEY,)}
COMPARED = {"speaks_of": ("base", "baked", "reprompted"), "compared_with": ("prompted",)}


def of(make: Any, caught_by: str | None = None, **members: Any) -> type[EvaluatorSuite]:
    return suite_for(EvaluatorSuite, "evaluator", make, caught_by, **COMMON | members)


globals().update(suites_for(EvaluatorSuite, "evaluator", Good, SPOILT, **COMMON))
TestGoodComparison = of(LikeThePrompted, **COMPARED)
TestGoodJudge = of(Moody, noise=0.1)
TestGoodMaximum = of(Longest)
TestGoodOfTwoArms = of(BaseAndBaked, speaks_of=("base", "baked"))
TestUnsaidNoise = of(Moody, "test_it_gives_the_same_again")
TestTooMuchNoise = of(Moody, "test_it_tells_two_answers_apart", noise=2.0)
TestUnsaidComparison = of(
    LikeThePrompted,
    "test_an_arm_is_measured_by_its_own_answers",
    speaks_of=("base", "baked", "reprompted"),
)
TestComparesWithNothing = of(
    Good, "test_compared_with_is_true_of_it", compared_with=("prompted", "base")
)
TestSpeaksOfMore = of(Good, "test_every_arm_that_answered_has_a_value", speaks_of=("baked",))
TestComparesAll = of(Good, "test_it_tells_two_answers_apart", compared_with=ARMS)
TestTellsNothing = of(Good, "test_it_tells_two_answers_apart", telling=None)
