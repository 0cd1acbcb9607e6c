"""Backends that open, estimate and pay wrongly, or whose flags say what is not so."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from faulty_suites import Fault, suite_for, suites_for
from toy_backend import Model, Toy, ToySuite, Trainer, after, faults

from promptbake.costs import (
    CostEstimate,
    LogprobsWork,
    NoBudget,
    SampleWork,
    TopKWork,
    TrainWork,
    Usage,
)
from promptbake.errors import BakeError, BudgetError
from promptbake.types import ImmediateResult

# --- opening


class TwoModels(Toy):
    """Nothing is faulty."""

    seeds = {"tiny": 0, "other": 1}  # noqa: RUF012

    def open_model(self, name: str, budget: Any) -> Any:
        if name not in self.seeds:
            raise BakeError(f"model.name = {name!r}: there is only {', '.join(self.seeds)}")
        model = Model(self.seeds[name])
        model.name = name
        return model


@pytest.fixture
def other_model_name(self: Any) -> str:
    return "other"


def opening(change: Callable[[str], Any]) -> dict[str, Any]:
    """Opens another model."""
    return {"open_model": lambda self, name, budget: change(name)}


def with_digest(digest: str, seed: int = 0) -> Any:
    model = Model(seed)
    model.digest = digest
    return model


TWO = {"takes_any_name": False, "other_model_name": other_model_name}
UNKNOWN, ANY = "test_an_unknown_model_is_refused", "test_any_name_opens_the_one_model"
OPENING = [
    *faults("test_it_has_a_name", has_no_name={"name": ""}),
    *faults(
        "test_a_model_is_the_same_when_it_is_opened_again",
        has_a_new_digest_each_time=opening(lambda name: with_digest(secrets.token_hex(8))),
        has_no_digest=opening(lambda name: with_digest("")),
        has_new_weights_each_time=opening(lambda name: with_digest("a", secrets.randbelow(2**31))),
    ),
    *faults(ANY, opens_another_model_for_each_name=opening(lambda name: Model(len(name)))),
    Fault("says_that_it_takes_any_name", ANY, base=TwoModels),
    Fault("opens_anything", UNKNOWN, flags={"takes_any_name": False}),
    Fault(
        "crashes_at_an_unknown_name",
        UNKNOWN,
        opening(lambda name: Model({"tiny": 0}[name])),
        {"takes_any_name": False},
    ),
    Fault(
        "has_one_digest",
        "test_another_model_has_another_digest",
        opening(lambda name: with_digest("a", len(name))),
        TWO,
    ),
    Fault("tolerates_anything", "test_its_flags_are_strict_enough", flags={"tolerance": 10.0}),
    Fault("learns_nothing", "test_its_flags_are_strict_enough", flags={"lr": 0.0}),
]

# --- money


class PaidModel(Model):
    """A token costs a dollar."""

    budget: Any = NoBudget()

    def reserve(self, kind: str, tokens: int) -> Any:
        return self.budget.reserve(kind, Usage(input_tokens=tokens, dollars=tokens))

    def commit(self, reservation: Any, tokens: int) -> None:
        reservation.commit(Usage(input_tokens=tokens, dollars=tokens))

    def pay(self, kind: str, tokens: int, results: Any, cost: Callable[[Any], int]) -> Any:
        """Reserves, works, commits, and then gives the results."""
        reservation = self.reserve(kind, tokens)
        results = list(results)
        self.commit(reservation, cost(results))
        yield from results

    def sample(self, prompts: Any, *, max_tokens: int, **how: Any) -> Any:
        read = sum(map(len, prompts))
        free = Model().with_lora(self.delta)
        return self.pay(
            "sample",
            read + max_tokens * len(prompts),
            free.sample(prompts, max_tokens=max_tokens, **how),
            lambda responses: read + sum(len(each.tokens) for _, each in responses),
        )

    def stream(self, prompt: Any, *, max_tokens: int, **how: Any) -> Any:
        return self.pay(
            "sample",
            len(prompt) + max_tokens,
            Model.stream(self, prompt, max_tokens=max_tokens, **how),
            lambda chunks: len(prompt) + sum(len(each.tokens) for each in chunks),
        )

    def logprobs(self, spans: Any, ids: Any = None) -> Any:
        read = sum(len(span.tokens) for span in spans)
        return self.pay("logprobs", read, Model.logprobs(self, spans, ids), lambda _: read)

    def estimate_cost(self, work: Any) -> CostEstimate:
        tokens = sum(read for read, _ in work.rows)
        if isinstance(work, SampleWork):
            tokens += sum(response for _, response in work.rows)
        tokens *= work.times
        usage = Usage(input_tokens=tokens, dollars=tokens)
        return CostEstimate(usage, priced=True, seconds=None, source="a dollar a token")


class PaidTrainer(Trainer):
    def forward_backward(self, batch: Any, objective: Any) -> Any:
        tokens = sum(len(example.datum.student_ids) for example in batch)
        reservation = self.base.reserve("train", tokens)
        loss = super().forward_backward(batch, objective)
        self.base.commit(reservation, tokens)
        return loss


class Paid(Toy):
    """Nothing is faulty."""

    model, trainer = PaidModel, PaidTrainer

    def open_model(self, name: str, budget: Any) -> Any:
        model = self.model()
        model.budget = budget
        return model

    def new_lora(self, base: Any, *, rank: int, seed: int, start: Any = None) -> Any:
        return self.trainer(base, rank, seed, start)


def paid_backend(part: type) -> Any:
    """A paid backend with models or trainers of this class; or one of this class."""
    backend = part() if issubclass(part, Toy) else Paid()
    if issubclass(part, Model):
        backend.model = part
    if issubclass(part, Trainer):
        backend.trainer = part
    return backend


def free(model: Any) -> Any:
    """The same model, outside the budget."""
    model = model.with_lora(model.delta)
    model.budget = NoBudget()
    return model


def ignore_the_refusal(self: Any, kind: str, tokens: int) -> Any:
    with suppress(BudgetError):
        return PaidModel.reserve(self, kind, tokens)
    return NoBudget()


def raise_another_error(self: Any, kind: str, tokens: int) -> Any:
    try:
        return PaidModel.reserve(self, kind, tokens)
    except BudgetError as error:
        raise BakeError(f"out of money: {error}") from None


def pay_for_an_estimate(self: Any, work: Any) -> CostEstimate:
    self.commit(ignore_the_refusal(self, work.kind, 1), 1)
    return PaidModel.estimate_cost(self, work)


def estimating(change: Callable[[Any], Any]) -> dict[str, Any]:
    """Estimates other work."""
    return {"estimate_cost": lambda self, work: PaidModel.estimate_cost(self, change(work))}


def usage_of(change: Callable[[CostEstimate], CostEstimate]) -> dict[str, Any]:
    """Gives another estimate."""
    return {"estimate_cost": after(PaidModel.estimate_cost, lambda self, good: change(good))}


def without(kind: type) -> dict[str, Any]:
    """Takes one kind of work for none."""
    return estimating(lambda work: replace(work, rows=()) if isinstance(work, kind) else work)


RESERVED = "test_paid_work_is_reserved_and_committed"
NUMBERS = "test_an_estimate_is_in_numbers_and_costs_nothing"
COVERED = "test_an_estimate_covers_what_the_work_costs"
MONEY = [
    *faults(
        RESERVED,
        streams_for_free={"stream": Model.stream},
        samples_for_free={"sample": Model.sample, "stream": Model.stream},
        scores_for_free={"logprobs": Model.logprobs},
        reserves_for_unknown_work={
            "reserve": lambda self, kind, tokens: PaidModel.reserve(
                self, "scoring" if kind == "logprobs" else kind, tokens
            )
        },
        never_commits={"commit": lambda self, reservation, tokens: None},
        commits_more_than_it_reserved={
            "reserve": lambda self, kind, tokens: PaidModel.reserve(self, kind, tokens // 2)
        },
    ),
    *faults(
        "test_it_stops_where_the_budget_refuses",
        works_without_money={"reserve": ignore_the_refusal},
        raises_another_error_without_money={"reserve": raise_another_error},
    ),
    *faults(
        NUMBERS,
        pays_for_an_estimate={"estimate_cost": pay_for_an_estimate},
        estimates_once=estimating(lambda work: replace(work, times=1)),
        estimates_no_number=usage_of(lambda good: replace(good, seconds=float("nan"))),
        estimates_less_than_nothing=usage_of(
            lambda good: replace(good, usage=replace(good.usage, dollars=-1.0))
        ),
        estimates_no_samples=without(SampleWork),
        estimates_no_top_k=without(TopKWork),
        estimates_no_scores=without(LogprobsWork),
        estimates_no_training=without(TrainWork),
    ),
    *faults(
        COVERED,
        estimates_prompts_alone=estimating(lambda work: TrainWork(work.rows, times=work.times)),
        estimates_responses_alone=estimating(
            lambda work: replace(work, rows=tuple((n, n) for _, n in work.rows))
        ),
    ),
]
MONEY = [replace(fault, base=PaidModel) for fault in MONEY] + [
    Fault(
        "trains_for_free",
        RESERVED,
        {"forward_backward": Trainer.forward_backward},
        base=PaidTrainer,
    ),
    Fault(
        "has_free_students",
        RESERVED,
        {"snapshot": lambda self: ImmediateResult(free(self.student))},
        base=PaidTrainer,
    ),
    *faults(
        RESERVED,
        has_free_baked_models={"load_adapter": after(Paid.load_adapter, lambda self, m: free(m))},
    ),
    Fault("says_that_it_is_free", RESERVED, flags={"paid": False}),
]

PAID = suites_for(ToySuite, "backend", Paid, MONEY, paid_backend, paid=True)
TestGoodPaid = PAID.pop("TestGood")
TestGoodTwoModels = suite_for(ToySuite, "backend", TwoModels, **TWO)
globals().update(PAID, **suites_for(ToySuite, "backend", Toy, OPENING))
