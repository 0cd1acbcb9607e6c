"""The share of answers that follow a rule, for each arm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from promptbake import ARMS, ArmAnswers, BakeError, EvalContext, Evaluator, Message, Prompt, Query
from promptbake.testing import EvaluatorSuite
from promptbake_checks import KINDS, checks


class TestChecks(EvaluatorSuite):
    contrasting_answers = ("Hm.", "No")

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return checks(patterns={"hm": "(?i)hm"}, ends_with={"ends": "."})


def test_each_rule_is_applied_to_each_arms_answers() -> None:
    queries = [Query(name, (Message("user", "Why?"),)) for name in ("q0", "q1")]
    rows = (("No.", "Hm.", "hm", "Hm, hm"), ("No.", "Hm.", "no", "HM."))
    texts = [dict(zip(ARMS, row, strict=True)) for row in rows]
    context = EvalContext(Prompt("p", "Say hm."), tuple(map(ArmAnswers, queries, texts)))
    hm, ends = checks(patterns={"hm": "(?i)hm"}, ends_with={"ends": "."}).evaluate(context)
    assert (hm.name, hm.unit) == ("hm", "share of answers")
    assert tuple(hm.means.items()) == tuple(zip(ARMS, (0.0, 1.0, 0.5, 1.0), strict=True))
    assert tuple(ends.means.items()) == tuple(zip(ARMS, (1.0, 1.0, 0.0, 0.5), strict=True))
    assert hm.scores["baked"] == {"q0": 1.0, "q1": 0.0}


@pytest.mark.parametrize(
    ("kind", "value", "follows", "breaks"),
    [
        ("patterns", r"\bone\b", "Go, one.", "Gone."),
        ("contains", "Young One", "Hm, young one.", "Young, one is."),
        ("starts_with", "Hm", " Hm, yes.", "hm, yes."),
        ("ends_with", ".", "Yes. \n", "Yes"),
        ("least_words", 2, "a b", "a"),
        ("most_words", 2, "a\nb", "a b c"),
        ("letter_case", "upper", "AH, 7!", "AH, b"),
        ("letter_case", "lower", "ah, ß", "7!"),
        ("without_letters", "ex", "Glum rimy days.", "An Exit"),
        (
            "language",
            "fr",
            "Je ne sais pas où se trouve la bibliothèque de la ville.",
            "I do not know where the library of this town is.",
        ),
    ],
)
def test_a_rule_holds_for_the_one_and_not_for_the_other(
    kind: str, value: Any, follows: str, breaks: str
) -> None:
    rule = KINDS[kind](value, "key")
    assert rule(follows) is True
    assert rule(breaks) is False
    if kind not in ("without_letters", "most_words"):
        assert rule("") is False


def test_an_answer_is_held_against_a_json_schema(tmp_path: Path) -> None:
    file = tmp_path / "form.json"
    file.write_text(json.dumps({"type": "object", "required": ["name"]}))
    rule = KINDS["json_schema"](str(file), "key")
    assert rule(' {"name": "Yoda"}\n')
    for answer in ("{}", "[]", "Hm.", '{"name": '):
        assert not rule(answer)


def test_a_function_that_a_package_offers_is_a_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shouts-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: shouts\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[promptbake.checks]\nshouts = operator:truth\n")
    monkeypatch.syspath_prepend(tmp_path)
    rule = KINDS["entry_points"]("shouts", "key")
    assert rule("Ah") is True
    assert rule("") is False
    with pytest.raises(BakeError, match=r"offers 'shout' .*did you mean shouts"):
        KINDS["entry_points"]("shout", "key")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": {"bad": "a("}}, r"\.patterns\.bad: 'a\(' is no regular expression: missing"),
        ({"letter_case": {"x": "Upper"}}, r"letter_case\.x: 'Upper' is no letter case"),
        ({"language": {"x": "french"}}, r"language\.x: 'french' is no language"),
        ({"json_schema": {"x": "absent.json"}}, r"json_schema\.x: 'absent\.json' is no file"),
        ({"entry_points": {"x": "os:system"}}, r"entry_points\.x: no installed package offers"),
        ({"contains": {"x": "a"}, "ends_with": {"x": "b"}}, r"ends_with\.x: another rule"),
        ({}, "has no rules"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BakeError, match=f"^options\\.evaluators\\.checks.*{message}"):
        checks(**options)
