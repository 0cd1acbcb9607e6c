"""Backends that open, estimate and pay wrongly, or whose flags say what is not so."""

from __future__ import annotations

from typing import Any

import pytest
from faulty_suites import suite_for, suites_for
from toy_backend import LOADED, ToySuite, backend, backend_suites

TWO_MODELS = (
    "return ByteModel()", """if name not in ("tiny", "other"):
            raise BakeError(f"model.name = {name!r}: there is only tiny and other")
        model = ByteModel(len(name))
        model.name = name
        return model""",
)  # fmt: skip
PAID = '''

class PaidModel(ByteModel):
    """A token costs a dollar."""

    def reserve(self, kind, tokens):
        return self.budget.reserve(kind, Usage(input_tokens=tokens, dollars=tokens))

    def commit(self, reservation, tokens):
        reservation.commit(Usage(input_tokens=tokens, dollars=tokens))

    def pay(self, kind, tokens, results, cost):
        reservation = self.reserve(kind, tokens)
        results = list(results)
        self.commit(reservation, cost(results))
        yield from results

    def sample(self, prompts, *, max_tokens, **how):
        read, free = sum(map(len, prompts)), ByteModel().with_lora(self.delta)
        responses = free.sample(prompts, max_tokens=max_tokens, **how)
        return self.pay("sample", read + max_tokens * len(prompts), responses,
                        lambda done: read + sum(len(each.tokens) for _, each in done))

    def stream(self, prompt, *, max_tokens, **how):
        chunks = super().stream(prompt, max_tokens=max_tokens, **how)
        return self.pay("sample", len(prompt) + max_tokens, chunks,
                        lambda done: len(prompt) + sum(len(each.tokens) for each in done))

    def logprobs(self, spans, ids=None):
        read = sum(len(span.tokens) for span in spans)
        return self.pay("logprobs", read, super().logprobs(spans, ids), lambda done: read)

    def estimate_cost(self, work):
        tokens = sum(read for read, _ in work.rows)
        if work.kind == "sample":
            tokens += sum(response for _, response in work.rows)
        tokens *= work.times
        usage = Usage(input_tokens=tokens, dollars=tokens)
        return CostEstimate(usage, priced=True, seconds=None, source="a dollar a token")


class PaidTrainer(ByteTrainer):
    def forward_backward(self, batch, objective):
        tokens = sum(len(example.datum.student_ids) for example in batch)
        reservation = self.base.reserve("train", tokens)
        loss = super().forward_backward(batch, objective)
        self.base.commit(reservation, tokens)
        return loss


class Paid(Toy):
    def open_model(self, name, budget):
        model = PaidModel()
        model.budget = budget
        return model

    def new_lora(self, base, *, rank, seed, start=None):
        return PaidTrainer(base, rank, seed, start)


Toy = Paid
'''


def paid(*edits: str) -> Any:
    return backend(*edits, text=PAID)


@pytest.fixture
def other_model_name(self: Any) -> str:
    return "other"


DIGEST = "self.digest = hashlib.sha256(weights).hexdigest()"
ONE_NAME = {"takes_any_name": False}
TWO = {"takes_any_name": False, "other_model_name": other_model_name}
OPENING = {
    "test_it_has_a_name": {"has_no_name": ('name = "toy"\n\n', 'name = ""\n\n')},
    "test_a_model_is_the_same_when_it_is_opened_again": {
        "has_a_new_digest_each_time": (DIGEST, "self.digest = str(NEXT())"),
        "has_no_digest": (DIGEST, "self.digest = ''"),
        "has_new_weights_each_time": (
            DIGEST, "self.digest = 'a'", "return ByteModel()", "return ByteModel(NEXT())"),
    },
    "test_any_name_opens_the_one_model": {
        "opens_another_model_for_each_name": ("return ByteModel()", "return ByteModel(len(name))"),
        "says_that_it_takes_any_name": TWO_MODELS,
    },
    "test_an_unknown_model_is_refused": {
        "opens_anything": (ONE_NAME,),
        "crashes_at_an_unknown_name": (
            "return ByteModel()", "return ByteModel({'tiny': 0}[name])", ONE_NAME),
    },
    "test_another_model_has_another_digest": {
        "has_one_digest": (
            DIGEST, "self.digest = 'a'", "return ByteModel()", "return ByteModel(len(name))", TWO),
    },
    "test_its_flags_are_strict_enough": {
        "tolerates_anything": ({"tolerance": 10.0},), "learns_nothing": ({"lr": 0.0},),
    },
}  # fmt: skip

RESERVES = "return self.budget.reserve(kind, Usage(input_tokens=tokens, dollars=tokens))"
ESTIMATED = "usage = Usage(input_tokens=tokens, dollars=tokens)"
TIMES = "tokens *= work.times"
MONEY = {
    "test_paid_work_is_reserved_and_committed": {
        "streams_for_free": ("def stream(self, prompt,", "def unused(self, prompt,"),
        "samples_for_free": (
            "def stream(self, prompt,", "def unused(self, prompt,",
            "def sample(self, prompts,", "def unused(self, prompts,"),
        "scores_for_free": ("def logprobs(self, spans,", "def unused(self, spans,"),
        "reserves_for_unknown_work": ('self.pay("logprobs"', 'self.pay("scoring"'),
        "never_commits": ("reservation.commit(", "repr("),
        "commits_more_than_it_reserved": (
            RESERVES, "return self.budget.reserve(kind, Usage(dollars=tokens // 2))"),
        "trains_for_free": ("forward_backward(self, batch, objective):", "unused(self):"),
        "has_free_students": (
            "return ImmediateResult(self.student)", "student = copy.copy(self.student)\n"
            "        student.budget = NoBudget()\n        return ImmediateResult(student)"),
        "has_free_baked_models": (
            LOADED, f"base = copy.copy(base)\n        base.budget = NoBudget()\n        {LOADED}"),
        "says_that_it_is_free": ({"paid": False},),
    },
    "test_it_stops_where_the_budget_refuses": {
        "works_without_money": (
            RESERVES, f"with suppress(BudgetError):\n            {RESERVES}\n"
            "        return NoBudget()"),
        "raises_another_error_without_money": (
            RESERVES, f"try:\n            {RESERVES}\n        except BudgetError:\n"
            "            raise BakeError('out of money') from None"),
    },
    "test_an_estimate_is_in_numbers_and_costs_nothing": {
        "pays_for_an_estimate": (
            ESTIMATED, f"with suppress(BudgetError):\n            self.reserve(work.kind, 1)\n"
            f"        {ESTIMATED}"),
        "estimates_once": (TIMES, "pass"),
        "estimates_no_number": ("seconds=None", "seconds=float('nan')"),
        "estimates_less_than_nothing": (ESTIMATED, "usage = Usage(0, tokens, dollars=-1.0)"),
        "estimates_no_samples": (TIMES, f"{TIMES} * (work.kind != 'sample')"),
        "estimates_no_top_k": (TIMES, f"{TIMES} * (work.kind != 'top_k')"),
        "estimates_no_scores": (TIMES, f"{TIMES} * (work.kind != 'logprobs')"),
        "estimates_no_training": (TIMES, f"{TIMES} * (work.kind != 'train')"),
    },
    "test_an_estimate_covers_what_the_work_costs": {
        "estimates_prompts_alone": ('if work.kind == "sample":', "if False:"),
        "estimates_responses_alone": ("sum(read for read, _ in", "sum(read for _, read in"),
    },
}  # fmt: skip

globals().update(backend_suites(OPENING))
globals().update(suites_for(ToySuite, "backend", paid, MONEY, paid=True))
TestGood = suite_for(ToySuite, "backend", backend)
TestGoodPaid = suite_for(ToySuite, "backend", paid, paid=True)
TestGoodTwoModels = suite_for(ToySuite, "backend", lambda: backend(*TWO_MODELS), **TWO)
