"""The share of answers that match a pattern, for each arm."""

from __future__ import annotations

import pytest

from promptbake.errors import BakeError
from promptbake.interfaces import EvalContext, Evaluator
from promptbake.testing import EvaluatorSuite
from promptbake.types import ARMS, Arm, ArmAnswers, Message, Prompt, Query
from promptbake_checks import checks

QUERY = Query("q", (Message("user", "Why?"),))


class TestChecks(EvaluatorSuite):
    telling = ("Hm.", "No")

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return checks(patterns={"hm": "(?i)hm", "ends": r"\.$"})


def evidence(*answers: dict[Arm, str]) -> EvalContext:
    return EvalContext(Prompt("p", "Say hm."), tuple(ArmAnswers(QUERY, texts) for texts in answers))


def test_a_share_is_counted_for_each_arm_and_each_pattern() -> None:
    evaluator = checks(patterns={"hm": "(?i)hm", "ends": r"\.$"})
    hm, ends = evaluator.evaluate(
        evidence(
            {"base": "No.", "prompted": "Hm.", "baked": "hm", "reprompted": "Hm, hm"},
            {"base": "No.", "prompted": "Hm.", "baked": "no", "reprompted": "HM."},
        )
    )
    assert (hm.name, hm.unit) == ("hm", "share of answers")
    assert hm.values == {"base": 0.0, "prompted": 1.0, "baked": 0.5, "reprompted": 1.0}
    assert ends.values == {"base": 1.0, "prompted": 1.0, "baked": 0.0, "reprompted": 0.5}
    assert tuple(hm.values) == ARMS


def test_a_pattern_that_is_none_is_refused_with_its_key() -> None:
    with pytest.raises(BakeError) as caught:
        checks(patterns={"good": "a", "bad": "a("})
    problem = "options.evaluators.checks.patterns.bad: 'a(' is no regular expression: missing )"
    assert str(caught.value).startswith(problem)
