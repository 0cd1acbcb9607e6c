"""The conformance suite for evaluators."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from promptbake.costs import CostEstimate, Usage
from promptbake.errors import BudgetError
from promptbake.interfaces import EvalArm, EvalContext, Evaluator
from promptbake.testing.contexts import (
    ODD_ANSWERS,
    check_finite,
    context,
    of_arm,
    same_answer,
    scores_of,
)
from promptbake.testing.inputs import InputTests
from promptbake.testing.recording import RecordingBudget, RecordingModel
from promptbake.testing.sample_data import PROMPT, shared_model
from promptbake.testing.suite import noted, only_if
from promptbake.types import ARMS, Arm, Measurement


class EvaluatorSuite(InputTests):
    """Fixture `evaluator`: the evaluator.

    `contrasting_answers` are two answers that it scores differently; None for an evaluator that
    does not read the answers to the test questions, but asks the arms' models or reads their KL.

    `measured_arms` are the arms that each of its measurements covers where all have answered.
    `compared_with` are the arms that others are compared with: `("prompted",)` for a likeness to
    the prompted model. `noise` is how far two scores of one answer may lie apart, for a judge that
    samples; those of the contrasting answers must lie further apart. `paid = True` is for an
    evaluator that pays for what it sends.
    """

    fixture = "evaluator"
    contrasting_answers: ClassVar[tuple[str, str] | None] = None
    measured_arms: ClassVar[tuple[Arm, ...]] = ARMS
    compared_with: ClassVar[tuple[Arm, ...]] = ()
    noise: ClassVar[float] = 0.0
    paid: ClassVar[bool] = False

    def _input(self) -> EvalContext:
        return self._mixed()

    def _apply(self, evaluator: Evaluator, given: EvalContext, folder: Path) -> Any:
        return evaluator.evaluate(replace(given, cache=folder / "evaluators" / "cache"))

    def test_it_returns_a_list_of_measurements(self, evaluator: Evaluator) -> None:
        measurements = evaluator.evaluate(self._mixed())
        assert isinstance(measurements, Sequence), (
            f"evaluate returned a {type(measurements).__name__}: expected a list"
        )
        assert len(measurements) > 0, "evaluate measured nothing of three questions and four arms"
        for each in measurements:
            assert isinstance(each, Measurement), (
                f"evaluate returned {each!r}: expected promptbake.Measurement"
            )

    def test_each_measurement_has_a_name_and_a_unit(self, evaluator: Evaluator) -> None:
        measurements = evaluator.evaluate(self._mixed())
        for each in measurements:
            for what, text in (("name", each.name), ("unit", each.unit)):
                assert isinstance(text, str), f"{each}: its {what} is {text!r}: expected text"
                assert text.strip(), (
                    f"{each}: its {what} is empty: the report shows name and unit beside the "
                    "numbers, such as 'share of answers', 'characters' or 'points of 10'"
                )
            assert each.better in ("higher", "lower", None), (
                f"{each.name}: `better` is {each.better!r}: 'higher', 'lower', or None for neither"
            )
        names = [each.name for each in measurements]
        assert len(set(names)) == len(names), f"{names}: verify.json has one entry for a name"

    def test_every_score_is_a_finite_number(self, evaluator: Evaluator) -> None:
        measurements = evaluator.evaluate(self._mixed())
        assert scores_of(measurements), "no measurement has a score for any arm"
        check_finite(measurements)

    def test_its_measured_arms_have_scores(self, evaluator: Evaluator) -> None:
        measurements = evaluator.evaluate(self._mixed())
        self._check_complete(measurements)
        for arm in (each for each in ARMS if each not in self.measured_arms):
            assert not all(each.scores.get(arm) for each in measurements), (
                f"each measurement has scores of {arm}: add it to `measured_arms`"
            )

    def test_its_items_are_the_same_for_every_arm(self, evaluator: Evaluator) -> None:
        for each in evaluator.evaluate(self._mixed()):
            items = {arm: sorted(by_item) for arm, by_item in each.scores.items() if by_item}
            assert all(ids == next(iter(items.values())) for ids in items.values()), (
                f"{each.name} has the items {items}: arms are compared item by item, so an item, "
                "such as a test question, has one id whichever arm is measured"
            )

    @only_if("contrasting_answers")
    def test_an_arm_that_did_not_answer_has_no_score(self, evaluator: Evaluator) -> None:
        first, second = self._contrasting()
        some: list[tuple[Arm, ...]] = [("base", "baked"), *((arm,) for arm in ARMS)]
        some += [tuple(arm for arm in ARMS if arm != silent) for silent in ARMS]
        for arms in some:
            with noted(f"it measured answers of {', '.join(arms)} alone"):
                measurements = evaluator.evaluate(
                    context(dict.fromkeys(arms, first), dict.fromkeys(arms, second))
                )
                check_finite(measurements)
                if not set(self.compared_with) - set(arms):
                    self._check_complete(measurements, arms)
            invented = sorted({arm for _, arm, _ in scores_of(measurements)} - set(arms))
            assert not invented, (
                f"{', '.join(invented)} did not answer and has a score: leave it out, since 0 "
                "would be a measurement"
            )

    @only_if("contrasting_answers")
    @pytest.mark.parametrize("place", [0, 2])
    def test_a_question_that_an_arm_was_not_asked_does_not_count(
        self, evaluator: Evaluator, place: int
    ) -> None:
        first, second = self._contrasting()
        arm = self._own_arms()[-1]
        texts = [same_answer(first), same_answer(second)]
        texts.insert(place, {each: second for each in ARMS if each != arm})
        given = context(*texts)
        rest = given.answers[:place] + given.answers[place + 1 :]
        with noted(f"it measured three questions, and {arm} answered all but no. {place + 1}"):
            measurements = evaluator.evaluate(given)
            self._check_complete(measurements)
        alone = of_arm(scores_of(evaluator.evaluate(replace(given, answers=rest))), arm)
        difference = self._difference(alone, of_arm(scores_of(measurements), arm))
        assert not difference, (
            f"of {arm}, without the question that it did not answer, and with it: {difference}. "
            "Score an arm by its own answers alone"
        )

    def test_it_accepts_no_questions(self, evaluator: Evaluator) -> None:
        with noted("it measured no question"):
            measurements = evaluator.evaluate(context())
            check_finite(measurements)
        assert not (self.contrasting_answers and scores_of(measurements)), (
            f"{measurements} of no answer at all: give no score where nobody answered"
        )

    def test_an_arm_that_differs_has_other_scores(self, evaluator: Evaluator) -> None:
        before = scores_of(evaluator.evaluate(self._alike()))
        for arm in self._own_arms():
            after = scores_of(evaluator.evaluate(self._alike(arm)))
            assert self._difference(of_arm(before, arm), of_arm(after, arm)), (
                f"{arm} has the scores {of_arm(before, arm)} whichever of `contrasting_answers` it "
                "gives, and whatever its system prompt and its KL are: look at what is read of it"
            )

    @only_if("contrasting_answers", False)
    def test_it_does_not_read_the_answers(self, evaluator: Evaluator) -> None:
        first, second = (same_answer(text) for text in self._contrasting())
        before, after = (
            scores_of(evaluator.evaluate(context(row, row))) for row in (first, second)
        )
        difference = self._difference(before, after)
        assert not difference, f"{difference} by other answers: set `contrasting_answers`"

    @only_if("contrasting_answers")
    def test_every_answer_counts(self, evaluator: Evaluator) -> None:
        texts = self._contrasting()
        for arm in self._own_arms():
            scores = {}
            for choice in ((0, 0), (0, 1), (1, 0), (1, 1)):
                given = context(*(same_answer(texts[0]) | {arm: texts[n]} for n in choice))
                scores[choice] = of_arm(scores_of(evaluator.evaluate(given)), arm)
            # Both pairs, since the highest of all would see one of the two only.
            first = [(scores[0, n], scores[1, n]) for n in (0, 1)]
            last = [(scores[n, 0], scores[n, 1]) for n in (0, 1)]
            for place, pairs in (("first", first), ("last", last)):
                assert any(self._difference(*pair) for pair in pairs), (
                    f"of two answers of {arm}, the {place} has no influence on the scores: look "
                    "for an index, a return inside the loop, and a value that is overwritten"
                )

    def test_an_arm_is_measured_by_itself_alone(self, evaluator: Evaluator) -> None:
        before = scores_of(evaluator.evaluate(self._alike()))
        for arm in (each for each in ARMS if each not in self.compared_with):
            after = scores_of(evaluator.evaluate(self._alike(arm)))
            for each in (each for each in ARMS if each != arm):
                difference = self._difference(of_arm(before, each), of_arm(after, each))
                assert not difference, (
                    f"another {arm} changes the scores of {each}: {difference}. Look for arms that "
                    "are mixed up or put together; for one that others are compared with, set "
                    "`compared_with`"
                )

    @only_if("compared_with")
    def test_compared_with_is_what_it_says(self, evaluator: Evaluator) -> None:
        before = scores_of(evaluator.evaluate(self._alike()))
        for arm in self.compared_with:
            after = scores_of(evaluator.evaluate(self._alike(arm)))
            others = [each for each in ARMS if each != arm]
            assert any(
                self._difference(of_arm(before, each), of_arm(after, each)) for each in others
            ), f"another {arm} changes no other arm's scores: leave it out of `compared_with`"

    @only_if("contrasting_answers")
    def test_equal_answers_count_the_same_in_every_arm(self, evaluator: Evaluator) -> None:
        first, second = self._contrasting()
        one, other = (2 * self._own_arms())[-2:]
        pairs = [(first, second), (first, second), (second, second)]
        before, after = (
            scores_of(evaluator.evaluate(context(*(same_answer(first) | row for row in rows))))
            for rows in (
                [{one: a, other: b} for a, b in pairs],
                [{one: b, other: a} for a, b in pairs],
            )
        )
        for here, there in ((one, other), (other, one)):
            difference = one != other and self._difference(
                of_arm(before, here), of_arm(after, there)
            )
            assert not difference, (
                f"of {here}, and of {there} with the same answers: {difference}. Look for what "
                "treats an arm by its name or its place"
            )

    def test_the_order_of_the_questions_does_not_matter(self, evaluator: Evaluator) -> None:
        given = self._mixed()
        reverse = replace(given, answers=given.answers[::-1])
        before, after = (scores_of(evaluator.evaluate(each)) for each in (given, reverse))
        difference = self._difference(before, after)
        assert not difference, (
            f"with the questions in the reverse order: {difference}. Look for what treats an "
            "answer by its place, and for ids that count the items: a question has an id"
        )

    def test_it_gives_the_same_result_again(self, evaluator: Evaluator) -> None:
        before = scores_of(evaluator.evaluate(self._mixed()))
        evaluator.evaluate(self._alike())
        after = scores_of(evaluator.evaluate(self._mixed()))
        difference = self._difference(before, after)
        assert not difference, (
            f"of the same context: {difference}. Look for random numbers that do not follow from "
            "`context.seed`, and for what is kept between calls; for a judge that samples, set "
            "`noise`"
        )

    def test_its_measurements_do_not_depend_on_the_answers(self, evaluator: Evaluator) -> None:
        first, second = (
            [(each.name, each.unit, each.better) for each in evaluator.evaluate(given)]
            for given in (self._alike(), self._alike(*ARMS))
        )
        assert first == second, (
            f"{first}, and with other answers {second}: names and units must not depend on what "
            "was answered, or no two runs could be compared"
        )

    @only_if("contrasting_answers")
    @pytest.mark.parametrize("odd", ODD_ANSWERS)
    def test_odd_answers_are_scored(self, evaluator: Evaluator, odd: str) -> None:
        first, second = self._contrasting()
        answers = [same_answer(text) for text in (first, ODD_ANSWERS[odd], second)]
        with noted(f"it measured three answers, one of them {odd}"):
            measurements = evaluator.evaluate(context(*answers))
            self._check_complete(measurements)
            check_finite(measurements)
        with noted(f"it measured one answer, {odd}"):
            check_finite(evaluator.evaluate(context(answers[1])))

    def test_its_measurements_fit_into_verify_json(self, evaluator: Evaluator) -> None:
        rows = [vars(each) for each in evaluator.evaluate(self._mixed())]
        with noted(f"in {rows!r}; write float(value) for a number of numpy or torch"):
            text = json.dumps(rows, allow_nan=False, ensure_ascii=False)
        assert PROMPT.text not in text, f"the prompt is in {text}: it is kept out of verify.json"

    def test_its_progress_is_a_share_of_its_work(self, evaluator: Evaluator) -> None:
        shares: list[float] = []
        evaluator.evaluate(replace(self._mixed(), progress=shares.append))
        assert all(share >= 0 for share in shares), f"{shares}: it went back"
        assert sum(shares) <= 1 + 1e-6, (
            f"{shares}: each is the share of the work since the last call; together they are 1"
        )

    def test_it_estimates_its_cost_before_anything_is_sent(self, evaluator: Evaluator) -> None:
        model, budget = RecordingModel(shared_model()), RecordingBudget()
        arms = {arm: EvalArm(None, lambda: model) for arm in ARMS}
        with noted(
            "the answers to the test questions are not there yet; `questions` says how many"
        ):
            estimate = evaluator.estimate_cost(context(arms=arms, questions=3, budget=budget))
        assert isinstance(estimate, CostEstimate), (
            f"estimate_cost returned {estimate!r}: expected a CostEstimate, such as NO_COST"
        )
        figures = {**vars(estimate.usage), "seconds": estimate.seconds or 0.0}
        assert all(math.isfinite(value) and value >= 0 for value in figures.values()), figures
        assert not model.sampled, "an arm was sampled: use its model's `estimate_cost`"
        assert not budget.reservations, "money was reserved: nothing may be sent yet"

    def test_what_it_pays_for_is_reserved_first(self, evaluator: Evaluator) -> None:
        budget = RecordingBudget()
        given = replace(self._mixed(), budget=budget)
        estimate = evaluator.estimate_cost(replace(given, answers=()))
        evaluator.evaluate(given)
        assert bool(budget.reservations) == self.paid, (
            f"`paid` is {self.paid}, and it reserved {budget.reservations}: what costs money is "
            "reserved in `context.budget` before it is sent"
        )
        open_ones = [each for each in budget.reservations if each.committed is None]
        assert not open_ones, f"{open_ones}: commit what the work cost, or Usage() for nothing"
        spent = sum((each.committed or Usage()).dollars for each in budget.reservations)
        most = sum(each.usage.dollars for each in budget.reservations)
        assert spent <= most, f"it spent {spent} dollars, and had reserved {most}"
        assert not estimate.priced or spent <= estimate.usage.dollars, (
            f"it spent {spent} dollars, and had estimated {estimate.usage.dollars}"
        )

    @only_if("paid")
    def test_it_stops_where_the_budget_refuses(self, evaluator: Evaluator) -> None:
        with pytest.raises(BudgetError):
            evaluator.evaluate(replace(self._mixed(), budget=RecordingBudget(refuses_after=0)))

    def _contrasting(self) -> tuple[str, str]:
        return self.contrasting_answers or ("Yes.", "No, never.")

    def _own_arms(self) -> tuple[Arm, ...]:
        """The measured arms that others are not compared with."""
        arms = tuple(
            arm for arm in ARMS if arm in self.measured_arms and arm not in self.compared_with
        )
        assert arms, "no arm is in `measured_arms` and not in `compared_with`"
        return arms

    def _mixed(self) -> EvalContext:
        """Three questions, each answered differently by different arms."""
        second, first = self._contrasting()
        return context(
            *({arm: (first, second)[bits >> place & 1] for place, arm in enumerate(ARMS)}
              for bits in (0b1010, 0b1100, 0b1110))
        )  # fmt: skip

    def _alike(self, *others: Arm) -> EvalContext:
        """Two questions, answered alike by all arms but for `others`, which differ throughout."""
        first, second = self._contrasting()
        texts: dict[Arm, str] = {arm: second if arm in others else first for arm in ARMS}
        return context(texts, texts, different=others)

    def _check_complete(
        self, measurements: Sequence[Measurement], arms: Sequence[Arm] = ARMS
    ) -> None:
        assert measurements or not set(self.measured_arms) & set(arms), (
            "evaluate gave no measurement: look for an error that is swallowed"
        )
        for each in measurements:
            missing = [
                arm for arm in self.measured_arms if arm in arms and not each.scores.get(arm)
            ]
            assert not missing, (
                f"{each.name} has no score of {', '.join(missing)}, which answered: look at the "
                "names of the arms and for an error that is swallowed; see `measured_arms` and "
                "`compared_with`, too"
            )

    def _difference(self, before: Mapping[Any, float], after: Mapping[Any, float]) -> str:
        """The first score that differs, in words; nothing where none does."""
        for key in dict.fromkeys([*before, *after]):
            one, other = before.get(key), after.get(key)
            tolerance = max(self.noise, 1e-12)
            if one is None or other is None or not math.isclose(
                one, other, rel_tol=1e-9, abs_tol=tolerance
            ):  # fmt: skip
                return f"{', '.join(key)} is {one}, then {other}"
        return ""
