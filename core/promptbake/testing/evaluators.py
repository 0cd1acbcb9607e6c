"""The conformance suite for evaluators."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import pytest

from promptbake.interfaces import EvalContext, Evaluator
from promptbake.testing.contexts import (
    ODD_ANSWERS,
    alike,
    check_finite,
    evidence,
    of_arm,
    values,
)
from promptbake.testing.keys import check_unseen, everything_logged
from promptbake.testing.sample_data import PROMPT
from promptbake.testing.suite import Suite, noted
from promptbake.types import ARMS, Arm, Measurement

Key = TypeVar("Key")  # a measurement's name, with or without an arm


class EvaluatorSuite(Suite):
    """Fixture `evaluator`: the evaluator. `telling`: two answers that it tells apart.

    `speaks_of` are the arms that each of its measurements has a value for where all have answered.
    `compared_with` are the arms that others are compared with: `("prompted",)` for a likeness to
    the prompted model. `noise` is how far two values of the same evidence may lie apart, by a judge
    that samples; those of the two answers must lie further apart.
    """

    telling: ClassVar[tuple[str, str] | None] = None
    speaks_of: ClassVar[tuple[Arm, ...]] = ARMS
    compared_with: ClassVar[tuple[Arm, ...]] = ()
    noise: ClassVar[float] = 0.0

    def test_it_gives_a_list_of_measurements(self, evaluator: Evaluator) -> None:
        found = evaluator.evaluate(self._mixed())
        assert isinstance(found, Sequence), (
            f"evaluate gave a {type(found).__name__}: expected a list, which can be read twice"
        )
        assert len(found) > 0, "evaluate gave no measurement of three questions and four arms"
        for each in found:
            assert isinstance(each, Measurement), (
                f"evaluate gave {each!r}: expected promptbake.types.Measurement"
            )

    def test_each_measurement_has_a_name_and_a_unit(self, evaluator: Evaluator) -> None:
        for each in evaluator.evaluate(self._mixed()):
            for what, text in (("name", each.name), ("unit", each.unit)):
                assert isinstance(text, str), f"{each}: its {what} is {text!r}: expected text"
                assert text.strip(), (
                    f"{each}: its {what} is empty: the report shows name and unit beside the "
                    "values, such as 'share of answers', 'characters' or 'points of 10'"
                )

    def test_no_two_measurements_have_one_name(self, evaluator: Evaluator) -> None:
        names = [each.name for each in evaluator.evaluate(self._mixed())]
        assert len(set(names)) == len(names), (
            f"{names}: verify.json has one row for a name, so all but the last would be lost"
        )

    def test_every_value_is_a_finite_number(self, evaluator: Evaluator) -> None:
        found = evaluator.evaluate(self._mixed())
        assert values(found), "no measurement has a value for any arm"
        check_finite(found)

    def test_every_arm_that_answered_has_a_value(self, evaluator: Evaluator) -> None:
        found = evaluator.evaluate(self._mixed())
        self._check_complete(found)
        for arm in (each for each in ARMS if each not in self.speaks_of):
            assert not all(arm in each.values for each in found), (
                f"each measurement has a value for {arm}: add it to `speaks_of`"
            )

    def test_an_arm_that_did_not_answer_has_no_value(self, evaluator: Evaluator) -> None:
        first, second = self._told_apart()
        some: list[tuple[Arm, ...]] = [("base", "baked"), *((arm,) for arm in ARMS)]
        some += [tuple(arm for arm in ARMS if arm != silent) for silent in ARMS]
        for arms in some:
            answered = evidence(dict.fromkeys(arms, first), dict.fromkeys(arms, second))
            with noted(f"it measured answers of {', '.join(arms)} alone"):
                found = evaluator.evaluate(answered)
                check_finite(found)
                if not set(self.compared_with) - set(arms):
                    self._check_complete(found, arms)
            made_up = sorted({arm for _, arm in values(found)} - set(arms))
            assert not made_up, (
                f"{', '.join(made_up)} did not answer, and has a value: leave it out, since 0 "
                "would be a measurement"
            )

    def test_what_an_arm_was_not_asked_does_not_count_for_it(self, evaluator: Evaluator) -> None:
        first, second = self._told_apart()
        arm = self._measured()[-1]
        for place in (0, 2):  # of the question that it was not asked
            texts = [alike(first), alike(second)]
            texts.insert(place, {each: second for each in ARMS if each != arm})
            given = evidence(*texts)
            rest = given.answers[:place] + given.answers[place + 1 :]
            whole = values(evaluator.evaluate(EvalContext(given.prompt, rest)))
            with noted(f"it measured three questions, and {arm} answered all but no. {place + 1}"):
                holed = evaluator.evaluate(given)
                self._check_complete(holed)
            for name, value in of_arm(whole, arm).items():
                now = values(holed)[name, arm]
                assert self._same(value, now), (
                    f"{name} of {arm} is {now} where it answered two of three questions, and "
                    f"{value} where there were no others: divide by the number of its own answers"
                )

    def test_it_bears_that_there_is_no_question(self, evaluator: Evaluator) -> None:
        with noted("it measured no question"):
            found = values(evaluator.evaluate(EvalContext(PROMPT, ())))
        assert not found, f"{found} of no answer at all: give no value where nobody answered"

    def test_it_tells_two_answers_apart(self, evaluator: Evaluator) -> None:
        for arm in self._measured():
            by = self._values_of_two(evaluator, arm)
            assert any(self._difference(by[0, 0], other) for other in by.values()), (
                f"{arm} has {by[0, 0]} whichever of the two answers of `telling` it gives: look at "
                "what is read of the answers, and at `telling` and `noise`"
            )

    def test_every_answer_counts(self, evaluator: Evaluator) -> None:
        for arm in self._measured():
            by = self._values_of_two(evaluator, arm)
            changes = {  # the highest of all would see one of the two only
                "first": ((by[0, 0], by[1, 0]), (by[0, 1], by[1, 1])),
                "last": ((by[0, 0], by[0, 1]), (by[1, 0], by[1, 1])),
            }
            for place, pairs in changes.items():
                assert any(self._difference(*pair) for pair in pairs), (
                    f"of two answers of {arm}, the {place} has no influence on the values: look "
                    "for an index, a return inside the loop, and a value that is overwritten"
                )

    def test_an_arm_is_measured_by_its_own_answers(self, evaluator: Evaluator) -> None:
        first, second = self._told_apart()
        before = values(evaluator.evaluate(evidence(alike(first), alike(first))))
        for arm in (each for each in ARMS if each not in self.compared_with):
            other = alike(first) | {arm: second}
            after = values(evaluator.evaluate(evidence(other, other)))
            for each in (each for each in ARMS if each != arm):
                found = self._difference(of_arm(before, each), of_arm(after, each))
                assert not found, (
                    f"other answers of {arm} change the values of {each}: {found}. Look for arms "
                    "that are mixed up or put together; for one that others are compared with, set "
                    "`compared_with`"
                )

    def test_compared_with_is_true_of_it(self, evaluator: Evaluator) -> None:
        self.capable_of("compared_with")
        first, second = self._told_apart()
        before = values(evaluator.evaluate(evidence(alike(first), alike(first))))
        for arm in self.compared_with:
            other = alike(first) | {arm: second}
            after = values(evaluator.evaluate(evidence(other, other)))
            assert any(
                self._difference(of_arm(before, each), of_arm(after, each))
                for each in ARMS
                if each != arm
            ), f"other answers of {arm} change no other arm's values: leave it out of it"

    def test_an_answer_counts_the_same_in_another_arm(self, evaluator: Evaluator) -> None:
        first, second = self._told_apart()
        if len(self._measured()) < 2:
            pytest.skip("it measures one arm")
        one, other = self._measured()[-2:]
        given = [(first, second), (first, second), (second, second)]
        before, after = (
            values(evaluator.evaluate(evidence(*(alike(first) | answers for answers in each))))
            for each in (
                [{one: a, other: b} for a, b in given],
                [{one: b, other: a} for a, b in given],
            )
        )
        for here, there in ((one, other), (other, one)):
            found = self._difference(of_arm(before, here), of_arm(after, there))
            assert not found, (
                f"of {here}, and of {there} with the same answers: {found}. Look for what treats "
                "an arm by its name or its place"
            )

    def test_the_order_of_the_questions_does_not_matter(self, evaluator: Evaluator) -> None:
        given = self._mixed()
        turned = EvalContext(given.prompt, given.answers[::-1])
        before, after = (values(evaluator.evaluate(each)) for each in (given, turned))
        found = self._difference(before, after)
        assert not found, (
            f"with the questions in the reverse order: {found}. Look for what treats an answer by "
            "its place"
        )

    def test_it_gives_the_same_again(self, evaluator: Evaluator) -> None:
        first, _ = self._told_apart()
        before = values(evaluator.evaluate(self._mixed()))
        evaluator.evaluate(evidence(alike(first)))
        after = values(evaluator.evaluate(self._mixed()))
        found = self._difference(before, after)
        assert not found, (
            f"of the same evidence: {found}. Look for random numbers, and for what is kept between "
            "calls; for a judge that samples, set `noise`"
        )

    def test_its_measurements_are_the_same_whatever_the_answers(self, evaluator: Evaluator) -> None:
        first, second = self._told_apart()
        rows = [
            [(each.name, each.unit) for each in evaluator.evaluate(evidence(alike(text)))]
            for text in (first, second)
        ]
        assert rows[0] == rows[1], (
            f"{rows[0]}, and with other answers {rows[1]}: names and units must not depend on what "
            "was answered, or no two runs could be compared"
        )

    def test_odd_answers_are_measured_too(self, evaluator: Evaluator) -> None:
        first, second = self._told_apart()
        for what, text in ODD_ANSWERS.items():
            among_others = evidence(alike(first), alike(text), alike(second))
            with noted(f"it measured three answers, one of them {what}"):
                found = evaluator.evaluate(among_others)
                self._check_complete(found)
                check_finite(found)
            with noted(f"it measured an answer of {what}"):
                check_finite(evaluator.evaluate(evidence(alike(text))))

    def test_it_leaves_the_evidence_as_it_was(self, evaluator: Evaluator) -> None:
        given = self._mixed()
        before = copy.deepcopy(given)
        evaluator.evaluate(given)
        assert given == before, (
            "the evidence was changed, which the next evaluator and the report read: look for "
            "pop, setdefault and update on `texts`"
        )

    def test_its_measurements_fit_into_verify_json(self, evaluator: Evaluator) -> None:
        rows = {
            each.name: {"unit": each.unit, **each.values}
            for each in evaluator.evaluate(self._mixed())
        }
        try:
            text = json.dumps(rows, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            pytest.fail(f"{error}: in {rows!r}; write float(value) for a number of numpy or torch")
        assert PROMPT.text not in text, f"the prompt is in {text}: it is kept out of verify.json"

    def test_it_prints_nothing(
        self, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
    ) -> None:
        evaluator: Evaluator = request.getfixturevalue("evaluator")
        evaluator.evaluate(self._mixed())
        printed = capfd.readouterr().out
        assert not printed, f"{printed!r} is on stdout, which `promptbake verify --json` writes to"

    def test_no_key_is_seen(
        self,
        request: pytest.FixtureRequest,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.capable_of("keys")
        with everything_logged(caplog):
            evaluator: Evaluator = request.getfixturevalue("evaluator")
            found = evaluator.evaluate(self._mixed())
        out, err = capfd.readouterr()
        places = {"a measurement": repr(found), "stdout": out, "stderr": err, "a log": caplog.text}
        check_unseen(self.keys, places)

    def _told_apart(self) -> tuple[str, str]:
        assert self.telling is not None, (
            "set `telling` to two answers that the evaluator tells apart, such as one that it is "
            "to find and one that it is not"
        )
        return self.telling

    def _measured(self) -> tuple[Arm, ...]:
        """The arms whose values come of their own answers."""
        speaking = [arm for arm in ARMS if arm in self.speaks_of]
        found = tuple(arm for arm in speaking if arm not in self.compared_with)
        assert found, "no arm is left that `speaks_of` names and `compared_with` does not"
        return found

    def _mixed(self) -> EvalContext:
        """Three questions, answered otherwise by each arm."""
        first, second = self._told_apart()
        both = {True: first, False: second}
        return evidence(
            *({arm: both[bool(row >> place & 1)] for place, arm in enumerate(ARMS)}
              for row in (0b1010, 0b1100, 0b1110))
        )  # fmt: skip

    def _values_of_two(
        self, evaluator: Evaluator, arm: Arm
    ) -> dict[tuple[int, int], dict[str, float]]:
        """An arm's values, by which of the two answers it gives to each of two questions."""
        texts = self._told_apart()
        rest = alike(texts[0])
        found = {}
        for one, other in ((0, 0), (0, 1), (1, 0), (1, 1)):
            asked = evidence(rest | {arm: texts[one]}, rest | {arm: texts[other]})
            found[one, other] = of_arm(values(evaluator.evaluate(asked)), arm)
        return found

    def _check_complete(self, found: Sequence[Measurement], arms: Sequence[Arm] = ARMS) -> None:
        assert found or not set(self.speaks_of) & set(arms), (
            "evaluate gave no measurement: look for an error that is swallowed"
        )
        for each in found:
            missing = [arm for arm in self.speaks_of if arm in arms and arm not in each.values]
            assert not missing, (
                f"{each.name} has no value for {', '.join(missing)}, which answered: look at the "
                "names of the arms and for an error that is swallowed; see `speaks_of` and "
                "`compared_with`, too"
            )

    def _same(self, one: float, other: float) -> bool:
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=max(self.noise, 1e-12))

    def _difference(self, before: Mapping[Key, float], after: Mapping[Key, float]) -> str:
        """The first value that changed, in words; nothing where none did."""
        for key in dict.fromkeys([*before, *after]):
            one, other = before.get(key), after.get(key)
            if one is None or other is None or not self._same(one, other):
                name = " of ".join(key) if isinstance(key, tuple) else key
                return f"{name} is {one}, then {other}"
        return ""
