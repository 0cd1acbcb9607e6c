"""The part of the conformance suite for backends that is about quotes and the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

from promptbake.costs import Usage
from promptbake.errors import BudgetError
from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.common import ask, prompts, some_ids, some_seeds, tops
from promptbake.testing.backends.training_cases import (
    LINEAR,
    NONLINEAR,
    LessonTests,
    examples,
    train,
)
from promptbake.testing.recording import RecordingBudget
from promptbake.types import Checkpoint, Span, Work

KINDS = get_args(get_type_hints(Work)["kind"])
SAID = 4  # tokens of a response
DUST = 1e-9  # dollars: rounding
Verbs = dict[str, Callable[[], object]]


class AccountTests(LessonTests):
    """Of `model.estimate`, and of what is held against the budget."""

    def test_what_is_paid_for_is_held_and_settled(
        self, backend: Backend, model_name: str, tmp_path: Path
    ) -> None:
        budget = RecordingBudget()
        model = backend.open_model(model_name, budget)
        priced = model.estimate_cost(Work("sample", ((8, 8),))).priced
        for verb, do in self._verbs(backend, model, tmp_path).items():
            before = len(budget.reservations)
            do()
            holds = budget.reservations[before:]
            dollars = sum(held.usage.dollars for held in holds)
            if not self.paid:
                assert dollars == 0, f"`{verb}` holds ${dollars:.6f}: set `paid = True`"
            elif priced:
                assert dollars > 0, (
                    f"`{verb}` holds nothing: what is paid for through a model, a student or a "
                    "baked model is held against the budget that `open_model` was given"
                )
            for held in holds:
                assert held.what in KINDS, f"{held.what!r} is held: one of {', '.join(KINDS)}"
                assert held.committed is not None, (
                    f"`{verb}` never settles what it held, so that it counts as spent: settle what "
                    "it came to when its result is there"
                )
                over = held.committed.dollars - held.usage.dollars
                assert over <= DUST, (
                    f"`{verb}` settles ${over:.6f} more than it held: hold the most that it may "
                    "come to"
                )

    def test_it_stops_where_the_budget_refuses(
        self, backend: Backend, model_name: str, tmp_path: Path
    ) -> None:
        self.capable_of("paid")
        budget = RecordingBudget(capped=True)
        verbs = self._verbs(backend, backend.open_model(model_name, budget), tmp_path)
        budget.refuses_after = 0
        for verb, do in verbs.items():
            try:
                do()
            except BudgetError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"`{verb}` raises {error!r} where the budget refuses: let BudgetError through"
                ) from error
            raise AssertionError(
                f"`{verb}` goes on where the budget refuses: hold first, let BudgetError through"
            )

    def test_a_quote_is_in_numbers_and_sends_nothing(
        self, backend: Backend, model_name: str
    ) -> None:
        budget = RecordingBudget(refuses_after=0)
        model = backend.open_model(model_name, budget)
        for work in _works():
            once, twice = (
                model.estimate_cost(work),
                model.estimate_cost(replace(work, times=2, steps=2)),
            )
            numbers = {**vars(once.usage), "seconds": once.seconds or 0.0}
            for name, value in numbers.items():
                assert math.isfinite(value), f"the quote for {work.kind} has {value} {name}"
                assert value >= 0, f"the quote for {work.kind} has {value} {name}"
            assert _tokens(twice.usage) == 2 * _tokens(once.usage), (
                f"{work.kind}: {_tokens(once.usage)} tokens are quoted, and "
                f"{_tokens(twice.usage)} where all of it is done twice: multiply by `times`"
            )
        assert not budget.refused, "a quote is held against the budget: it must cost nothing"

    def test_a_quote_covers_what_it_comes_to(
        self, backend: Backend, model_name: str, tmp_path: Path
    ) -> None:
        self.capable_of("paid")
        budget = RecordingBudget()
        model = backend.open_model(model_name, budget)
        verbs = self._verbs(backend, model, tmp_path)
        read = tuple((len(prompt), SAID) for prompt in prompts(model))
        lesson = tuple(
            (len(one.datum.student_ids), one.datum.n_response) for one in examples(model)
        )
        whole = tuple((len(span.tokens), span.n_response) for span in _spans(model))
        works = {
            "sample": Work("sample", read),
            "logprobs": Work("logprobs", whole),
            "top_k": Work("top_k", whole, draws=2),
            "forward_backward": Work("train", lesson, steps=1),
            "forward_backward, bent": Work("train", lesson, steps=1, forward_first=True),
        }
        for verb, work in works.items():
            before, quote = len(budget.reservations), model.estimate_cost(work)
            verbs[verb]()
            came = sum(
                (held.committed or held.usage).dollars for held in budget.reservations[before:]
            )
            assert not quote.priced or came <= quote.usage.dollars + DUST, (
                f"`{verb}` comes to ${came:.6f}, and the quote for it is ${quote.usage.dollars:.6f}"
            )

    def _verbs(self, backend: Backend, model: Model, folder: Path) -> Verbs:
        """All that may be paid for through a model."""
        spans = _spans(model)
        ids = some_ids(model, spans, 2)
        lesson, asked = examples(model), prompts(model)
        trainer = self._fresh(backend, model)
        train(trainer, lesson, self.lr, LINEAR)
        student = trainer.snapshot().result()
        saved = trainer.save_adapter(folder)
        baked = backend.load_adapter(model, _at(saved, folder))
        heat, seeds = [1.0] * len(asked), some_seeds(len(asked))
        return {
            "sample": lambda: list(
                model.sample(asked, max_tokens=SAID, temperatures=heat, seeds=seeds)
            ),
            "stream": lambda: list(
                model.stream(asked[0], max_tokens=SAID, temperature=1.0, seed=0)
            ),
            "logprobs": lambda: ask(model, spans, ids),
            "top_k": lambda: tops(model, spans, 2, draws=2),
            "forward_backward": lambda: trainer.forward_backward(lesson, LINEAR).result(),
            "forward_backward, bent": lambda: trainer.forward_backward(lesson, NONLINEAR).result(),
            "logprobs of a student": lambda: ask(student, spans, ids),
            "logprobs of a baked model": lambda: ask(baked, spans, ids),
        }


def _spans(model: Model) -> list[Span]:
    return [one.datum.teacher for one in examples(model)]


def _at(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    return replace(checkpoint, uri=checkpoint.uri or str(folder))


def _works() -> list[Work]:
    rows = ((20, 5), (30, 8))
    return [
        Work("sample", rows, shared=10),
        Work("top_k", rows, draws=4),
        Work("logprobs", rows, shared=10),
        Work("train", rows, steps=1),
        Work("train", rows, steps=1, datums=3, forward_first=True),
    ]


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.cached_input_tokens + usage.output_tokens + usage.train_tokens
