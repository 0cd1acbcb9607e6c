"""The part of the conformance suite for backends about cost estimates and the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from promptbake.costs import LogprobsWork, SampleWork, TopKWork, TrainWork, Usage, WorkItem
from promptbake.errors import BudgetError
from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.common import prompts, score, some_ids, some_seeds, top_k
from promptbake.testing.backends.training_cases import (
    LINEAR,
    NONLINEAR,
    Training,
    TrainingTests,
    examples,
)
from promptbake.testing.recording import RecordingBudget
from promptbake.testing.suite import only_if
from promptbake.types import Span

KINDS = [work.kind for work in get_args(WorkItem)]
MAX_TOKENS = 4
ROUNDING = 1e-9  # dollars
ROWS = ((20, 5), (30, 8))
WORK_ITEMS: tuple[WorkItem, ...] = (
    SampleWork(ROWS, shared=10),
    TopKWork(ROWS, draws=4),
    LogprobsWork(ROWS, shared=10),
    TrainWork(ROWS, steps=1),
    TrainWork(ROWS, steps=1, support=3, forward_first=True),
)


class CostTests(TrainingTests):
    """Of `model.estimate_cost`, and of what is reserved in the budget."""

    def test_paid_work_is_reserved_and_committed(self, training: Training, model_name: str) -> None:
        budget = RecordingBudget()
        model = training.backend.open_model(model_name, budget)
        priced = model.estimate_cost(SampleWork(((8, 8),))).priced
        for verb, call in self._verbs(training, model).items():
            before = len(budget.reservations)
            call()
            reservations = budget.reservations[before:]
            dollars = sum(each.usage.dollars for each in reservations)
            if not self.paid:
                assert dollars == 0, f"`{verb}` reserves ${dollars:.6f}: set `paid = True`"
            elif priced:
                assert dollars > 0, (
                    f"`{verb}` reserves nothing: what is paid for through a model, a student or a "
                    "baked model is reserved in the budget that `open_model` was given"
                )
            for each in reservations:
                assert each.what in KINDS, f"{each.what!r} is reserved: one of {', '.join(KINDS)}"
                assert each.committed is not None, (
                    f"`{verb}` never commits what it reserved, so that it counts as spent: commit "
                    "what it cost when its result is there"
                )
                over = each.committed.dollars - each.usage.dollars
                assert over <= ROUNDING, (
                    f"`{verb}` commits ${over:.6f} more than it reserved: reserve the most that it "
                    "may cost"
                )

    @only_if("paid")
    def test_it_stops_where_the_budget_refuses(self, training: Training, model_name: str) -> None:
        budget = RecordingBudget(capped=True)
        verbs = self._verbs(training, training.backend.open_model(model_name, budget))
        budget.refuses_after = 0
        for verb, call in verbs.items():
            try:
                call()
            except BudgetError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"`{verb}` raises {error!r} where the budget refuses: let BudgetError through"
                ) from error
            raise AssertionError(
                f"`{verb}` works where the budget refuses: reserve first, let BudgetError through"
            )

    def test_an_estimate_is_in_numbers_and_costs_nothing(
        self, backend: Backend, model_name: str
    ) -> None:
        budget = RecordingBudget(refuses_after=0)
        model = backend.open_model(model_name, budget)
        for work in WORK_ITEMS:
            estimate = model.estimate_cost(work)
            for name, value in {**vars(estimate.usage), "seconds": estimate.seconds or 0.0}.items():
                assert math.isfinite(value), f"the estimate for {work.kind} has {value} {name}"
                assert value >= 0, f"the estimate for {work.kind} has {value} {name}"
            once = _tokens(estimate.usage)
            twice = _tokens(model.estimate_cost(replace(work, times=2)).usage)
            assert once > 0, f"the estimate for {work.kind} has no tokens"
            assert twice == 2 * once, (
                f"the estimate for {work.kind} is {once} tokens, and {twice} where all of it is "
                "done twice: multiply by `times`"
            )
        assert not budget.refused, "an estimate is reserved in the budget: it must cost nothing"

    @only_if("paid")
    def test_an_estimate_covers_what_the_work_costs(
        self, training: Training, model_name: str
    ) -> None:
        budget = RecordingBudget()
        model = training.backend.open_model(model_name, budget)
        verbs = self._verbs(training, model)
        whole = tuple((len(span.tokens), span.n_response) for span in _spans(model))
        batch = tuple(
            (len(each.datum.student_ids), each.datum.n_response) for each in examples(model)
        )
        support = examples(model)[0].support.ids.shape[1]
        steps = TrainWork(batch, steps=1, support=support)
        work_items: dict[str, WorkItem] = {
            "sample": SampleWork(tuple((len(each), MAX_TOKENS) for each in prompts(model))),
            "logprobs": LogprobsWork(whole),
            "top_k": TopKWork(whole, draws=2),
            "forward_backward": steps,
            "forward_backward, nonlinear": replace(steps, forward_first=True),
        }
        for verb, work in work_items.items():
            before, estimate = len(budget.reservations), model.estimate_cost(work)
            verbs[verb]()
            dollars = sum(
                (each.committed or each.usage).dollars for each in budget.reservations[before:]
            )
            assert not estimate.priced or dollars <= estimate.usage.dollars + ROUNDING, (
                f"`{verb}` costs ${dollars:.6f}, and the estimate is ${estimate.usage.dollars:.6f}"
            )

    def _verbs(self, opened: Training, model: Model) -> dict[str, Callable[[], object]]:
        """All that may be paid for through a model."""
        training = replace(opened, base=model)
        spans, before, batch = _spans(model), prompts(model), training.batch
        ids = some_ids(model, spans, 2)
        trainer = training.trained(steps=1)
        student = trainer.snapshot().result()
        baked = training.backend.load_adapter(model, training.saved(trainer))
        temperatures, seeds = [1.0] * len(before), some_seeds(len(before))
        return {
            "sample": lambda: list(
                model.sample(before, max_tokens=MAX_TOKENS, temperatures=temperatures, seeds=seeds)
            ),
            "stream": lambda: list(
                model.stream(before[0], max_tokens=MAX_TOKENS, temperature=1.0, seed=0)
            ),
            "logprobs": lambda: score(model, spans, ids),
            "top_k": lambda: top_k(model, spans, 2, draws=2),
            "forward_backward": lambda: trainer.forward_backward(batch, LINEAR).result(),
            "forward_backward, nonlinear": lambda: trainer.forward_backward(
                batch, NONLINEAR
            ).result(),
            "logprobs of a student": lambda: score(student, spans, ids),
            "logprobs of a baked model": lambda: score(baked, spans, ids),
        }


def _spans(model: Model) -> list[Span]:
    return [example.datum.teacher for example in examples(model)]


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.cached_input_tokens + usage.output_tokens + usage.train_tokens
