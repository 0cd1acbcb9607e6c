"""The share of answers that match a pattern, for each arm."""

from __future__ import annotations

import pytest

from promptbake import ARMS, ArmAnswers, BakeError, EvalContext, Evaluator, Message, Prompt, Query
from promptbake.testing import EvaluatorSuite
from promptbake_checks import checks


class TestChecks(EvaluatorSuite):
    contrasting_answers = ("Hm.", "No")

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return checks(patterns={"hm": "(?i)hm", "ends": r"\.$"})


def test_each_pattern_is_searched_for_in_each_arms_answers() -> None:
    queries = [Query(name, (Message("user", "Why?"),)) for name in ("q0", "q1")]
    rows = (("No.", "Hm.", "hm", "Hm, hm"), ("No.", "Hm.", "no", "HM."))
    texts = [dict(zip(ARMS, row, strict=True)) for row in rows]
    context = EvalContext(Prompt("p", "Say hm."), tuple(map(ArmAnswers, queries, texts)))
    hm, ends = checks(patterns={"hm": "(?i)hm", "ends": r"\.$"}).evaluate(context)
    assert (hm.name, hm.unit) == ("hm", "share of answers")
    assert tuple(hm.means.items()) == tuple(zip(ARMS, (0.0, 1.0, 0.5, 1.0), strict=True))
    assert tuple(ends.means.items()) == tuple(zip(ARMS, (1.0, 1.0, 0.0, 0.5), strict=True))
    assert hm.scores["baked"] == {"q0": 1.0, "q1": 0.0}


def test_an_invalid_pattern_is_refused_with_its_key() -> None:
    message = (
        r"^options\.evaluators\.checks\.patterns\.bad: 'a\(' is no regular expression: missing"
    )
    with pytest.raises(BakeError, match=message):
        checks(patterns={"good": "a", "bad": "a("})
