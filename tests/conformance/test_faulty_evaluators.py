"""Faulty evaluators, and the test of EvaluatorSuite that catches each."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from faulty_suites import fault, suite_for, suites_for

from promptbake.costs import NO_COST, CostEstimate, SampleWork, Usage
from promptbake.interfaces import EvalContext
from promptbake.testing import EvaluatorSuite
from promptbake.types import ARMS, Arm, Measurement, Message

KEY = "TOY_API_KEY"
Scores = dict[Arm, dict[str, float]]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "toy-key-0123456789")


class Good:
    """Whether an answer says hm, and how long it is."""

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        return NO_COST

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        return [
            Measurement("hm", "share of answers", self.scores(context, self.hm), "higher"),
            Measurement("length", "characters", self.scores(context, self.length)),
        ]

    def scores(self, context: EvalContext, score: Any) -> Scores:
        texts = {arm: self.texts(context, arm) for arm in ARMS}
        return {arm: {item: score(text) for item, text in texts[arm].items()} for arm in ARMS}

    def texts(self, context: EvalContext, arm: Arm) -> dict[str, str]:
        return {each.query.id: each.texts[arm] for each in context.answers if arm in each.texts}

    def hm(self, text: str) -> float:
        return float("hm" in text.lower())

    def length(self, text: str) -> float:
        return len(text)


class Comparison(Good):
    """Whether an answer is as long as the prompted model's."""

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        prompted = self.texts(context, "prompted")
        scores: Scores = {
            arm: {
                item: float(len(text) == len(prompted[item]))
                for item, text in self.texts(context, arm).items()
                if item in prompted
            }
            for arm in ARMS
            if arm != "prompted"
        }
        return [Measurement("like the prompted", "share of answers", scores)]


class Moody(Good):
    """Like a judge that samples."""

    def __init__(self) -> None:
        self.moods = itertools.cycle((-0.03, 0.01, 0.04, -0.01, 0.02, 0.0, -0.02))

    def hm(self, text: str) -> float:
        return super().hm(text) + next(self.moods)

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        return super().evaluate(context)[:1]


class Paid(Good):
    """Pays a cent for each answer."""

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        return CostEstimate(self.usage(4 * context.questions), priced=True, seconds=None)

    def usage(self, calls: int) -> Usage:
        return Usage(calls=calls, dollars=calls / 100)

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        usage = self.usage(4 * len(context.answers))
        reservation = context.budget.reserve("toy", usage)
        measurements = super().evaluate(context)
        reservation.commit(usage)
        return measurements


class Asking(Good):
    """How many tokens each arm answers to its own question."""

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        return context.arms["base"].open_model().estimate_cost(SampleWork(((20, 8),) * 4))

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        scores: Scores = {arm: {"hm": self.ask(context, arm)} for arm in ARMS}
        return [Measurement("tokens of an answer", "tokens", scores)]

    def ask(self, context: EvalContext, arm: Arm) -> float:
        system, model = context.arms[arm].system, context.arms[arm].open_model()
        prompt = model.renderer.prompt([Message("user", "Say hm.")], system)
        seeds = [self.seed(context)]
        sampled = model.sample([prompt], max_tokens=8, temperatures=[1.0], seeds=seeds)
        ((_, completion),) = sampled
        context.progress(0.25)
        return len(prompt) + sum(completion.tokens) / 1000

    def seed(self, context: EvalContext) -> int:
        return context.seed


class ByKL(Good):
    """The greatest KL of a token."""

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        scores: Scores = {
            arm: {
                conversation.id: max(nats)
                for conversation, nats in zip(context.held_out, kl.by_token, strict=True)
            }
            for arm, kl in context.held_out_kl.items()
        }
        return [Measurement("worst token", "nats", scores, "lower")]


class Longest(Good):
    """One item: all answers together."""

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        texts = {arm: self.texts(context, arm) for arm in ARMS}
        longest = {arm: {"all": max(map(len, by.values()))} for arm, by in texts.items() if by}
        return [Measurement("longest", "characters", longest)]


class BaseAndBaked(Good):
    """Covers two arms."""

    def scores(self, context: EvalContext, score: Any) -> Scores:
        return {arm: Good.scores(self, context, score)[arm] for arm in ("base", "baked")}


def each(**changes: Any) -> Any:
    """The good measurements with fields replaced; a function is given the measurement."""
    return lambda self, context: [
        replace(m, **{name: new(m) if callable(new) else new for name, new in changes.items()})
        for m in Good.evaluate(self, context)
    ]


def scored(change: Any) -> Any:
    """The good measurements with scores changed: change(arm, item, score)."""
    return each(scores=lambda m: {
        arm: {item: change(arm, item, score) for item, score in by_item.items()}
        for arm, by_item in m.scores.items()
    })  # fmt: skip


def texts_of(change: Any) -> Any:
    """The texts of an arm changed: change(context, arm, texts)."""
    return lambda self, context, arm: change(context, arm, Good.texts(self, context, arm))


def renamed(texts: Mapping[str, str]) -> dict[str, str]:
    return {str(n): text for n, text in enumerate(texts.values())}


def swallow(self: Good, context: EvalContext) -> Any:
    try:
        return Good.evaluate(self, context)
    except ValueError:
        return []


def only_printable(self: Good, text: str) -> float:
    if not text.isprintable():
        raise ValueError(text)
    return Good.hm(self, text)


def add_calls(self: Good, context: EvalContext) -> Any:
    self.calls = getattr(self, "calls", 0) + 1  # type: ignore[attr-defined]
    return scored(lambda arm, item, score: score + self.calls)(self, context)


def take_out(self: Good, context: EvalContext, arm: Arm) -> Any:
    return {a.query.id: a.texts.pop(arm) for a in context.answers if arm in a.texts}


def log_key(self: Good) -> None:
    logging.getLogger("toy").debug("headers: %s", {"Authorization": os.environ[KEY]})


def printing(self: Good, text: str) -> float:
    print(text)  # noqa: T201
    return Good.hm(self, text)


def seeding(self: Good, text: str) -> float:
    torch.manual_seed(0)
    return Good.hm(self, text)


def together(self: Good, context: EvalContext) -> Any:
    total = sum(len(text) for arm in ARMS for text in self.texts(context, arm).values())
    return scored(lambda arm, item, score: total)(self, context)


def sampling_estimate(self: Asking, context: EvalContext) -> CostEstimate:
    self.ask(context, "base")
    return NO_COST


def overspending(self: Paid, context: EvalContext) -> Any:
    context.budget.reserve("toy", self.usage(1)).commit(self.usage(2))
    return Good.evaluate(self, context)


def spending_on(self: Paid, context: EvalContext) -> Any:
    try:
        return Paid.evaluate(self, context)
    except Exception:
        return Good.evaluate(self, context)


LIST = "test_it_returns_a_list_of_measurements"
NAMED = "test_each_measurement_has_a_name_and_a_unit"
FINITE = "test_every_score_is_a_finite_number"
SILENT = "test_an_arm_that_did_not_answer_has_no_score"
HOLES = "test_a_question_that_an_arm_was_not_asked_does_not_count[0]"
MEASURED = "test_its_measured_arms_have_scores"
DIFFERS = "test_an_arm_that_differs_has_other_scores"
ALONE = "test_an_arm_is_measured_by_itself_alone"
EVERY = "test_every_answer_counts"
ORDER = "test_the_order_of_the_questions_does_not_matter"
AGAIN = "test_it_gives_the_same_result_again"
ODD = "test_odd_answers_are_scored"
JSON = "test_its_measurements_fit_into_verify_json"
KEYS = "test_no_key_is_seen"
ESTIMATE = "test_it_estimates_its_cost_before_anything_is_sent"
RESERVED = "test_what_it_pays_for_is_reserved_first"
NAN = float("nan")
THREE: tuple[Arm, ...] = ("base", "baked", "reprompted")
COMMON: dict[str, Any] = {"contrasting_answers": ("Hm, the moon does it.", "No."), "keys": (KEY,)}
PAID = {"base": Paid, "flags": {"paid": True}}
ASKING = {"base": Asking, "flags": {"contrasting_answers": None}}
FAULTS = [
    fault("gives_dicts", LIST, evaluate=lambda s, c: [vars(m) for m in Good.evaluate(s, c)]),
    fault("gives_one_measurement_alone", LIST, evaluate=lambda s, c: Good.evaluate(s, c)[0]),
    fault("gives_a_generator", LIST, evaluate=lambda s, c: iter(Good.evaluate(s, c))),
    fault("has_no_unit", NAMED, evaluate=each(unit="")),
    fault("has_no_name", NAMED, evaluate=each(name=None)),
    fault("unknown_direction", NAMED, evaluate=each(better="up")),
    fault("one_name_for_both", "test_no_two_measurements_have_one_name",
          evaluate=each(name="toy")),
    fault("nan_without_answers", SILENT, evaluate=each(
        scores=lambda m: {arm: m.scores[arm] or {"q0": NAN} for arm in ARMS})),
    fault("nan_of_an_empty_answer", f"{ODD}[no character]", length=lambda s, t: len(t) or NAN),
    fault("divides_by_the_number_of_questions", HOLES, evaluate=lambda s, c: scored(
        lambda arm, item, score: score / len(c.answers))(s, c)),
    fault("fails_without_questions", "test_it_accepts_no_questions",
          evaluate=lambda s, c: c.answers[0] and Good.evaluate(s, c)),
    fault("fails_without_all_arms", SILENT,
          texts=lambda s, c, arm: {a.query.id: a.texts[arm] for a in c.answers}),
    fault("takes_the_arms_of_the_first_question", HOLES, texts=texts_of(
        lambda c, arm, texts: texts if c.answers and arm in c.answers[0].texts else {})),
    fault("nothing_is_zero", SILENT, evaluate=each(
        scores=lambda m: {arm: m.scores[arm] or {"q0": 0.0} for arm in ARMS})),
    fault("leaves_the_reprompted_out", MEASURED, evaluate=each(
        scores=lambda m: {arm: m.scores[arm] for arm in ARMS[:3]})),
    fault("names_the_arms_as_the_report", FINITE, evaluate=each(
        scores=lambda m: {arm.title(): by_item for arm, by_item in m.scores.items()})),
    fault("scores_in_percent", FINITE, hm=lambda s, text: f"{Good.hm(s, text):.0%}"),
    fault("scores_yes_or_no", FINITE, hm=lambda s, text: "hm" in text.lower()),
    fault("numbers_for_ids", FINITE, texts=texts_of(
        lambda c, arm, texts: dict(enumerate(texts.values())))),
    fault("empty_ids", FINITE, texts=texts_of(
        lambda c, arm, texts: dict(zip([""], texts.values(), strict=False)))),
    fault("ids_by_place", ORDER, texts=texts_of(lambda c, arm, texts: renamed(texts))),
    fault("ids_with_the_arm", "test_its_items_are_the_same_for_every_arm", texts=texts_of(
        lambda c, arm, texts: {f"{arm} {item}": text for item, text in texts.items()})),
    fault("constant", DIFFERS, hm=lambda s, text: 0.5, length=lambda s, text: 20.0),
    fault("mixes_the_arms_up", ALONE, texts=lambda s, c, arm: Good.texts(
        s, c, {"baked": "reprompted", "reprompted": "baked"}.get(arm, arm))),
    fault("puts_the_arms_together", ALONE, evaluate=together),
    fault("lenient_with_the_baked", "test_equal_answers_count_the_same_in_every_arm",
          evaluate=scored(lambda arm, item, score: score / (1 + (arm != "baked")))),
    fault("first_answer_only", EVERY,
          texts=texts_of(lambda c, arm, texts: dict([*texts.items()][:1]))),
    fault("last_answer_only", EVERY,
          texts=texts_of(lambda c, arm, texts: dict([*texts.items()][-1:]))),
    fault("later_answers_count_more", ORDER, scores=lambda s, c, score: {
        arm: {item: place * score(text) for place, (item, text)
              in enumerate(Good.texts(s, c, arm).items(), 1)} for arm in ARMS}),
    fault("accumulates", AGAIN, evaluate=add_calls),
    fault("names_what_it_saw", "test_its_measurements_do_not_depend_on_the_answers",
          evaluate=each(name=lambda m: f"{m.name} {any(m.means.values())}")),
    fault("swallows_errors", f"{ODD}[control characters]", evaluate=swallow, hm=only_printable),
    fault("fails_without_a_word", f"{ODD}[white space alone]",
          length=lambda s, text: len(text.split()[0])),
    fault("formats_the_answers", f"{ODD}[markup]",
          hm=lambda s, text: Good.hm(s, text.format(prompt=""))),
    fault("takes_the_answers_out", "test_it_leaves_its_input_unchanged", texts=take_out),
    fault("numbers_of_its_own", JSON, hm=lambda s, text: type(
        "float16", (), {"__float__": lambda s: 0.5})()),
    fault("quotes_the_prompt", JSON,
          evaluate=lambda s, c: each(name=lambda m: f"{m.name}: {c.prompt.text}")(s, c)),
    fault("prints", "test_it_prints_nothing", hm=printing),
    fault("seeds_torch", "test_it_leaves_torchs_random_state_unchanged",
          hm=seeding),
    fault("logs_its_key", KEYS, __init__=log_key),
    fault("names_its_key", KEYS, evaluate=each(unit=lambda m: f"by {os.environ[KEY]}")),
    fault("undeclared_noise", AGAIN, base=Moody),
    fault("too_much_noise", DIFFERS, base=Moody, flags={"noise": 2.0}),
    fault("undeclared_comparison", ALONE, base=Comparison, flags={"measured_arms": THREE}),
    fault("compares_with_nothing", "test_compared_with_is_what_it_says",
          flags={"compared_with": ("prompted", "base")}),
    fault("measures_more_arms", MEASURED, flags={"measured_arms": ("baked",)}),
    fault("compares_all", DIFFERS, flags={"compared_with": ARMS}),
    fault("reads_the_answers", "test_it_does_not_read_the_answers",
          flags={"contrasting_answers": None}),
    fault("estimates_by_a_number", ESTIMATE, estimate_cost=lambda s, c: 0.0),
    fault("estimates_from_answers", ESTIMATE, base=Paid, estimate_cost=lambda s, c: CostEstimate(
        Usage(calls=len(c.answers[0].texts)), priced=True, seconds=0.0)),
    fault("samples_to_estimate", ESTIMATE, estimate_cost=sampling_estimate, **ASKING),
    fault("estimates_too_little", RESERVED, estimate_cost=lambda s, c: NO_COST, **PAID),
    fault("reserves_nothing", RESERVED, evaluate=Good.evaluate, **PAID),
    fault("undeclared_payment", RESERVED, base=Paid),
    fault("commits_more_than_it_reserved", RESERVED, evaluate=overspending, **PAID),
    fault("leaves_a_reservation_open", RESERVED, **PAID,
          evaluate=lambda s, c: c.budget.reserve("toy", Usage()) and Good.evaluate(s, c)),
    fault("ignores_a_refusal", "test_it_stops_where_the_budget_refuses",
          evaluate=spending_on, **PAID),
    fault("samples_without_the_seed", AGAIN, **ASKING,
          seed=lambda s, c: setattr(s, "n", getattr(s, "n", 0) + 1) or s.n),
    fault("asks_without_the_system_prompt", DIFFERS, **ASKING, ask=lambda s, c, arm: Asking.ask(
        s, replace(c, arms={arm: replace(c.arms[arm], system=None)}), arm)),
    fault("progress_in_items", "test_its_progress_is_a_share_of_its_work", **ASKING,
          evaluate=lambda s, c: Asking.evaluate(
              s, replace(c, progress=lambda share: c.progress(4 * share)))),
]  # fmt: skip


def good(evaluator: type, **flags: Any) -> type[EvaluatorSuite]:
    return suite_for(EvaluatorSuite, "evaluator", evaluator, **COMMON | flags)


globals().update(suites_for(EvaluatorSuite, "evaluator", Good, FAULTS, **COMMON))
TestGoodComparison = good(Comparison, measured_arms=THREE, compared_with=("prompted",))
TestGoodJudge = good(Moody, noise=0.1)
TestGoodPaid = good(Paid, paid=True)
TestGoodAsking = good(Asking, contrasting_answers=None)
TestGoodByKL = good(ByKL, contrasting_answers=None, measured_arms=THREE)
TestGoodMaximum = good(Longest)
TestGoodOfTwoArms = good(BaseAndBaked, measured_arms=("base", "baked"))
