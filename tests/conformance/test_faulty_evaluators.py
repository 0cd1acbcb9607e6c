"""Faulty evaluators, and the test of EvaluatorSuite that catches each."""

from __future__ import annotations

import itertools
import logging
import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from faulty_suites import Faults, edited, suite_for, suites_for

from promptbake.costs import NO_COST, CostEstimate, SampleWork, Usage
from promptbake.testing import EvaluatorSuite
from promptbake.types import ARMS, Measurement, Message

KEY = "TOY_API_KEY"
KNOWN = (
    CostEstimate,
    Measurement,
    Message,
    SampleWork,
    Usage,
    itertools,
    logging,
    os,
    replace,
    torch,
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "toy-key-0123456789")


SOURCE = '''
class Toy:
    """Whether an answer says hm, and how long it is."""

    def estimate_cost(self, context):
        return NO_COST

    def evaluate(self, context):
        texts = {arm: self.texts(context, arm) for arm in ARMS}
        measurements = [
            Measurement("hm", "share of answers", self.scores(texts, self.hm), "higher"),
            Measurement("length", "characters", self.scores(texts, self.length)),
        ]
        return measurements

    def texts(self, context, arm):
        return {each.query.id: each.texts[arm] for each in context.answers if arm in each.texts}

    def scores(self, texts, score):
        scores = {arm: {item: score(t) for item, t in texts[arm].items()} for arm in ARMS}
        return scores

    def hm(self, text):
        return float("hm" in text.lower())

    def length(self, text):
        return len(text)
'''
PAID = '''

class Paid(Toy):
    """Pays a cent for each answer."""

    def estimate_cost(self, context):
        return CostEstimate(self.usage(4 * context.questions), priced=True, seconds=None)

    def usage(self, calls):
        return Usage(calls=calls, dollars=calls / 100)

    def evaluate(self, context):
        usage = self.usage(4 * len(context.answers))
        reservation = context.budget.reserve("toy", usage)
        measurements = super().evaluate(context)
        reservation.commit(usage)
        return measurements

Toy = Paid
'''
ASKING = '''

class Asking(Toy):
    """How many tokens each arm answers to its own question."""

    def estimate_cost(self, context):
        return context.arms["base"].open_model().estimate_cost(SampleWork(((20, 8),) * 4))

    def evaluate(self, context):
        scores = {arm: {"hm": self.ask(context, arm)} for arm in ARMS}
        return [Measurement("tokens of an answer", "tokens", scores)]

    def ask(self, context, arm):
        system, model = context.arms[arm].system, context.arms[arm].open_model()
        prompt = model.renderer.prompt([Message("user", "Say hm.")], system)
        sampled = model.sample(
            [prompt], max_tokens=8, temperatures=[1.0], seeds=[context.seed])
        ((_, completion),) = sampled
        context.progress(0.25)
        return len(prompt) + sum(completion.tokens) / 1000

Toy = Asking
'''


def evaluator(*edits: str, text: str = "") -> Any:
    known = {each.__name__: each for each in KNOWN} | {"ARMS": ARMS, "NO_COST": NO_COST}
    return edited(SOURCE + text, edits, KEY=KEY, NEXT=itertools.count().__next__, **known)["Toy"]()


TEXTS = "{each.query.id: each.texts[arm] for each in context.answers if arm in each.texts}"
RETURN, SCORES, HM = (
    "return measurements\n\n    def texts",
    "return scores\n\n    def hm",
    "return float(",
)


def each(**fields: str) -> tuple[str, str]:
    """The good measurements `m` with fields replaced."""
    changes = ", ".join(f"{name}={value}" for name, value in fields.items())
    return RETURN, RETURN.replace("measurements", f"[replace(m, {changes}) for m in measurements]")


def scored(change: str) -> tuple[str, str]:
    """The good scores changed: of `arm`, `item` and `score`, where all are `n`."""
    items = f"{{item: {change} for n, (item, score) in enumerate(by_item.items(), 1)}}"
    changed = f"{{arm: {items} for arm, by_item in scores.items()}}"
    return SCORES, SCORES.replace("scores", changed, 1)


def texts(change: str) -> tuple[str, str]:
    """The texts of an arm changed: of `good`."""
    return f"return {TEXTS}", f"good = {TEXTS}\n        return {change}"


COMPARISON = (  # whether an answer is as long as the prompted model's
    RETURN, """like = {
            arm: {
                item: float(len(text) == len(texts["prompted"][item]))
                for item, text in texts[arm].items()
                if item in texts["prompted"]
            }
            for arm in ARMS
            if arm != "prompted"
        }
        return [Measurement("like the prompted", "share of answers", like)]

    def texts""",
)  # fmt: skip
MOODY = (  # like a judge that samples
    "return measurements\n", "return measurements[:1]\n",
    HM, "return (-0.03, 0.01, 0.04, -0.01, 0.02, 0.0, -0.02)[NEXT() % 7] + float(",
)  # fmt: skip
BY_KL = (
    RETURN, """worst = {
            arm: {
                conversation.id: max(nats)
                for conversation, nats in zip(context.held_out, kl.by_token, strict=True)
            }
            for arm, kl in context.held_out_kl.items()
        }
        return [Measurement("worst token", "nats", worst, "lower")]

    def texts""",
)  # fmt: skip
LONGEST = scored("max(by_item.values())")[0], SCORES.replace(  # all answers together
    "scores", "{a: {'all': max(by.values())} for a, by in scores.items() if by}", 1)  # fmt: skip
TWO_ARMS = SCORES, SCORES.replace("scores", "{a: scores[a] for a in ('base', 'baked')}", 1)

NAN = "float('nan')"
FILLED = "{{arm: m.scores[arm] or {{'q0': {}}} for arm in ARMS}}"
THREE = ("base", "baked", "reprompted")
FAULTS: Faults = {
    "test_it_returns_a_list_of_measurements": {
        "gives_dicts": (RETURN, RETURN.replace("measurements", "list(map(vars, measurements))")),
        "gives_one_measurement_alone": (RETURN, RETURN.replace("measurements", "measurements[0]")),
        "gives_a_generator": (RETURN, RETURN.replace("measurements", "iter(measurements)")),
    },
    "test_each_measurement_has_a_name_and_a_unit": {
        "has_no_unit": each(unit="''"),
        "has_no_name": each(name="None"),
        "unknown_direction": each(better="'up'"),
        "one_name_for_both": each(name="'toy'"),
    },
    "test_an_arm_that_did_not_answer_has_no_score": {
        "nan_without_answers": each(scores=FILLED.format(NAN)),
        "nothing_is_zero": each(scores=FILLED.format(0.0)),
        "fails_without_all_arms": (" if arm in each.texts", ""),
    },
    "test_odd_answers_are_scored[no character]": {
        "nan_of_an_empty_answer": ("return len(text)", f"return len(text) or {NAN}"),
    },
    "test_odd_answers_are_scored[control characters]": {
        "swallows_errors": (
            HM, "assert text.isprintable()\n        return float(", "\n        measurements = [",
            "\n        try:\n            self.scores(texts, self.hm)\n        except Exception:\n"
            "            return []\n        measurements = ["),
    },
    "test_odd_answers_are_scored[white space alone]": {
        "fails_without_a_word": ("return len(text)", "return len(text.split()[0])"),
    },
    "test_odd_answers_are_scored[markup]": {
        "formats_the_answers": ("text.lower()", "text.format(prompt='').lower()"),
    },
    "test_a_question_that_an_arm_was_not_asked_does_not_count[0]": {
        "divides_by_the_number_of_questions": (
            "self.hm)", "lambda text: self.hm(text) / len(context.answers))"),
        "takes_the_arms_of_the_first_question": texts(
            "good if context.answers and arm in context.answers[0].texts else {}"),
    },
    "test_it_accepts_no_questions": {
        "fails_without_questions": texts("context.answers[0] and good"),
    },
    "test_its_measured_arms_have_scores": {
        "leaves_the_reprompted_out": each(scores="{arm: m.scores[arm] for arm in ARMS[:3]}"),
        "measures_more_arms": ({"measured_arms": ("baked",)},),
    },
    "test_every_score_is_a_finite_number": {
        "names_the_arms_as_the_report": each(scores="{a.title(): m.scores[a] for a in ARMS}"),
        "scores_in_percent": scored("f'{score:.0%}'"),
        "scores_yes_or_no": scored("bool(score)"),
        "numbers_for_ids": texts("dict(enumerate(good.values()))"),
        "empty_ids": texts("dict(zip([''], good.values()))"),
    },
    "test_the_order_of_the_questions_does_not_matter": {
        "ids_by_place": texts("{str(n): text for n, text in enumerate(good.values())}"),
        "later_answers_count_more": scored("n * score"),
    },
    "test_its_items_are_the_same_for_every_arm": {
        "ids_with_the_arm": texts("{f'{arm} {item}': text for item, text in good.items()}"),
    },
    "test_an_arm_that_differs_has_other_scores": {
        "constant": scored("0.5"),
        "too_much_noise": (*MOODY, {"noise": 2.0}),
        "compares_all": ({"compared_with": ARMS},),
    },
    "test_an_arm_is_measured_by_itself_alone": {
        "mixes_the_arms_up": (
            "self.texts(context, arm)",
            "self.texts(context, {'baked': 'reprompted', 'reprompted': 'baked'}.get(arm, arm))"),
        "puts_the_arms_together": scored("sum(len(str(each)) for each in texts.values())"),
        "undeclared_comparison": (*COMPARISON, {"measured_arms": THREE}),
    },
    "test_compared_with_is_what_it_says": {
        "compares_with_nothing": ({"compared_with": ("prompted", "base")},),
    },
    "test_equal_answers_count_the_same_in_every_arm": {
        "lenient_with_the_baked": scored("score / (1 + (arm != 'baked'))"),
    },
    "test_every_answer_counts": {
        "first_answer_only": texts("dict([*good.items()][:1])"),
        "last_answer_only": texts("dict([*good.items()][-1:])"),
    },
    "test_it_gives_the_same_result_again": {
        "accumulates": scored("score + NEXT()"),
        "undeclared_noise": MOODY,
    },
    "test_its_measurements_do_not_depend_on_the_answers": {
        "names_what_it_saw": each(name="f'{m.name} {any(m.means.values())}'"),
    },
    "test_it_leaves_its_input_unchanged": {
        "takes_the_answers_out": (TEXTS, TEXTS.replace("each.texts[arm]", "each.texts.pop(arm)")),
    },
    "test_its_measurements_fit_into_verify_json": {
        "numbers_of_its_own": scored("type('float16', (), {'__float__': lambda self: 0.5})()"),
        "quotes_the_prompt": each(name="m.name + context.prompt.text"),
    },
    "test_it_prints_nothing": {"prints": (HM, "print(text)\n        return float(")},
    "test_it_leaves_torchs_random_state_unchanged": {
        "seeds_torch": (HM, "torch.manual_seed(0)\n        return float("),
    },
    "test_no_key_is_seen": {
        "logs_its_key": (
            HM, "logging.getLogger('toy').debug(os.environ[KEY])\n        return float("),
        "names_its_key": each(unit="f'by {os.environ[KEY]}'"),
    },
    "test_it_does_not_read_the_answers": {"reads_the_answers": ({"contrasting_answers": None},)},
    "test_it_estimates_its_cost_before_anything_is_sent": {
        "estimates_by_a_number": ("return NO_COST", "return 0.0"),
    },
}  # fmt: skip
PAID_FAULTS = {
    "test_it_estimates_its_cost_before_anything_is_sent": {
        "estimates_from_answers": ("4 * context.questions", "len(context.answers[0].texts)"),
    },
    "test_what_it_pays_for_is_reserved_first": {
        "estimates_too_little": ("4 * context.questions", "0"),
        "reserves_nothing": ("Toy = Paid", ""),
        "undeclared_payment": ({"paid": False},),
        "commits_more_than_it_reserved": ("commit(usage)", "commit(usage + usage)"),
        "leaves_a_reservation_open": ("reservation.commit(usage)", "pass"),
    },
    "test_it_stops_where_the_budget_refuses": {
        "ignores_a_refusal": (
            '= context.budget.reserve("toy", usage)', '= context.budget\n        try:\n'
            '            reservation = context.budget.reserve("toy", usage)\n'
            '        except Exception:\n            return super().evaluate(context)'),
    },
}  # fmt: skip
ASKING_FAULTS = {
    "test_it_estimates_its_cost_before_anything_is_sent": {
        "samples_to_estimate": (
            'return context.arms["base"]', 'self.ask(context, "base")\n'
            '        return context.arms["base"]'),
    },
    "test_it_gives_the_same_result_again": {
        "samples_without_the_seed": ("context.seed", "NEXT()"),
    },
    "test_an_arm_that_differs_has_other_scores": {
        "asks_without_the_system_prompt": ('"Say hm.")], system)', '"Say hm.")])'),
    },
    "test_its_progress_is_a_share_of_its_work": {"progress_in_items": ("0.25", "1")},
}  # fmt: skip


def paid(*edits: str) -> Any:
    return evaluator(*edits, text=PAID)


def asking(*edits: str) -> Any:
    return evaluator(*edits, text=ASKING)


COMMON: dict[str, Any] = {"contrasting_answers": ("Hm, the moon does it.", "No."), "keys": (KEY,)}
IS_PAID, IS_ASKING = COMMON | {"paid": True}, COMMON | {"contrasting_answers": None}
GOOD = {
    "Comparison": (COMPARISON, {"measured_arms": THREE, "compared_with": ("prompted",)}),
    "Judge": (MOODY, {"noise": 0.1}),
    "ByKL": (BY_KL, {"contrasting_answers": None, "measured_arms": THREE}),
    "Maximum": (LONGEST, {}),
    "OfTwoArms": (TWO_ARMS, {"measured_arms": ("base", "baked")}),
}

for make, faults, flags in (
    (evaluator, FAULTS, COMMON), (paid, PAID_FAULTS, IS_PAID), (asking, ASKING_FAULTS, IS_ASKING),
):  # fmt: skip
    globals().update(suites_for(EvaluatorSuite, "evaluator", make, faults, **flags))
    globals()[f"TestGood_{make.__name__}"] = suite_for(EvaluatorSuite, "evaluator", make, **flags)
for name, (edits, flags) in GOOD.items():
    globals()[f"TestGood{name}"] = suite_for(
        EvaluatorSuite, "evaluator", lambda edits=edits: evaluator(*edits), **COMMON | flags
    )
