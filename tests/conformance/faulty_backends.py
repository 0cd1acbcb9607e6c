"""Backends that open, quote and pay wrongly. Run by test_faulty_plugins.py."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from faulty_suites import suite_for, suites_for
from torch import Tensor
from toy_backend import Toy, ToyTrainer, opened

from promptbake.costs import Budget, CostEstimate, NoBudget, Reservation, Usage
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import Model, Objective, Pending
from promptbake.testing import BackendSuite, Suite
from promptbake.testing.backends.adapters import AdapterTests
from promptbake.testing.backends.costs import AccountTests
from promptbake.testing.backends.suite import OpeningTests
from promptbake.types import (
    Checkpoint,
    Completion,
    Example,
    ImmediateResult,
    Span,
    TeacherLogprobs,
    TokenIds,
)
from promptbake_torch.model import TorchModel

# --- opening


class HasNoName(Toy):
    name = ""


class DigestsAnew(Toy):
    def open_model(self, name: str, budget: Budget) -> Model:
        super().open_model(name, budget)
        return opened(TorchModel, name, secrets.token_hex(8))


class StartsAnew(Toy):
    """With other weights each time."""

    def open_model(self, name: str, budget: Budget) -> Model:
        super().open_model(name, budget)
        return opened(TorchModel, name, seed=secrets.randbelow(2**31))


class OpensAnything(Toy):
    def open_model(self, name: str, budget: Budget) -> Model:
        return opened(TorchModel, name)


class HasTwoModels(Toy):
    """Nothing is faulty."""

    digests: ClassVar[dict[str, str]] = {"tiny": "tiny", "other": "other"}

    def open_model(self, name: str, budget: Budget) -> Model:
        if name not in self.digests:
            return super().open_model(name, budget)
        return opened(TorchModel, name, self.digests[name], seed=len(name))


class HasOneDigest(HasTwoModels):
    digests: ClassVar[dict[str, str]] = {"tiny": "tiny", "other": "tiny"}


@pytest.fixture
def other_model_name(self: Suite) -> str:
    return "other"


class CrashesAtAnUnknownName(Toy):
    def open_model(self, name: str, budget: Budget) -> Model:
        return opened(TorchModel, {"tiny": "tiny"}[name])


OPENINGS = {
    HasNoName: "test_it_has_the_name_that_it_is_offered_under",
    DigestsAnew: "test_a_model_is_the_same_when_it_is_opened_again",
    StartsAnew: "test_a_model_is_the_same_when_it_is_opened_again",
    OpensAnything: "test_what_is_no_model_is_refused",
    CrashesAtAnUnknownName: "test_what_is_no_model_is_refused",
}


# --- money


class PaidModel(TorchModel):
    """A token costs a dollar."""

    @property
    def budget(self) -> Budget:
        return self.engine.budget  # type: ignore[attr-defined, no-any-return]

    def reserve(self, what: str, tokens: int) -> Reservation:
        return self.budget.reserve(what, Usage(input_tokens=tokens, dollars=tokens))

    def commit(self, hold: Reservation, tokens: int) -> None:
        hold.commit(Usage(input_tokens=tokens, dollars=tokens))

    def sample(
        self, prompts: Sequence[TokenIds], *, max_tokens: int, **how: Any
    ) -> Iterator[tuple[int, Completion]]:
        read = sum(map(len, prompts))
        hold = self.reserve("sample", read + max_tokens * len(prompts))
        found = list(super().sample(prompts, max_tokens=max_tokens, **how))
        self.commit(hold, read + sum(len(one.tokens) for _, one in found))
        yield from found

    def stream(self, prompt: TokenIds, *, max_tokens: int, **how: Any) -> Iterator[int]:
        hold = self.reserve("sample", len(prompt) + max_tokens)
        found = list(super().stream(prompt, max_tokens=max_tokens, **how))
        self.commit(hold, len(prompt) + len(found))
        yield from found

    def top_k(self, spans: Sequence[Span], **how: Any) -> Iterator[tuple[int, TeacherLogprobs]]:
        read = sum(len(span.tokens) for span in spans)
        hold = self.reserve("top_k", read)
        yield from super().top_k(spans, **how)
        self.commit(hold, read)

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        read = sum(len(span.tokens) for span in spans)
        hold = self.reserve("logprobs", read)
        yield from super().logprobs(spans, ids)
        self.commit(hold, read)

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        tokens = sum(read for read, _ in work.rows)
        if work.kind == "sample":
            tokens += sum(answer for _, answer in work.rows)
        tokens *= work.times
        return CostEstimate(
            Usage(input_tokens=tokens, dollars=tokens), True, None, "a dollar a token"
        )


class PaidTrainer(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        assert isinstance(self.base, PaidModel)
        tokens = sum(len(example.datum.student_ids) for example in batch)
        hold = self.base.reserve("train", tokens)
        loss = super().forward_backward(batch, objective)
        self.base.commit(hold, tokens)
        return loss


class Paid(Toy):
    """Nothing is faulty."""

    model = PaidModel
    trainer = PaidTrainer

    def open_model(self, name: str, budget: Budget) -> Model:
        model = super().open_model(name, budget)
        assert isinstance(model, TorchModel)
        model.engine.budget = budget  # type: ignore[attr-defined]
        return model


def paid_by(model: type[PaidModel] = PaidModel, trainer: type[ToyTrainer] = PaidTrainer) -> Any:
    """A backend whose models and trainers are of these kinds."""
    name = (model if model is not PaidModel else trainer).__name__
    return type(name, (Paid,), {"model": model, "trainer": trainer})


class StreamsForFree(PaidModel):
    def stream(self, *arguments: Any, **how: Any) -> Iterator[int]:
        return TorchModel.stream(self, *arguments, **how)


class TrainsForFree(PaidTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        return ToyTrainer.forward_backward(self, batch, objective)


class StudentsAreFree(PaidTrainer):
    """A snapshot has a budget of its own."""

    def snapshot(self) -> Pending[Model]:
        student = super().snapshot().result()
        assert isinstance(student, TorchModel)
        return ImmediateResult(TorchModel(student.engine, student.adapter, student.sample_batch))


class BakedModelsAreFree(Paid):
    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        found = super().load_adapter(base, checkpoint)
        assert isinstance(found, TorchModel)
        return TorchModel(found.engine, found.adapter, found.sample_batch)


class HoldsUnknownWork(PaidModel):
    def reserve(self, what: str, tokens: int) -> Reservation:
        return super().reserve("scoring" if what == "logprobs" else what, tokens)


class NeverSettles(PaidModel):
    def commit(self, hold: Reservation, tokens: int) -> None:
        pass


class SettlesMoreThanItHeld(PaidModel):
    """The answers' tokens are forgotten."""

    def reserve(self, what: str, tokens: int) -> Reservation:
        return super().reserve(what, tokens // 2)


class GoesOnWithoutMoney(PaidModel):
    def reserve(self, what: str, tokens: int) -> Reservation:
        with suppress(BudgetError):
            return super().reserve(what, tokens)
        return NoBudget()


class FailsWithoutMoney(PaidModel):
    """By an error of its own."""

    def reserve(self, what: str, tokens: int) -> Reservation:
        try:
            return super().reserve(what, tokens)
        except BudgetError as error:
            raise BakeError(f"out of money: {error}") from None


class PaysForAQuote(PaidModel):
    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        with suppress(BudgetError):
            self.commit(self.reserve(work.kind, 1), 1)
        return super().estimate_cost(work)


class QuotesOnce(PaidModel):
    """Whatever `times` says."""

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        return super().estimate_cost(replace(work, times=1))


class QuotesPromptsAlone(PaidModel):
    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        return super().estimate_cost(replace(work, kind="logprobs"))


class QuotesWhatIsNoNumber(PaidModel):
    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        return replace(super().estimate_cost(work), seconds=float("nan"))


class Flagged(Toy):
    """Nothing is faulty but what the author says of it."""


class SaysThatAnyNameWillDo(Flagged):
    pass


class SaysThatItExportsNothing(Flagged):
    pass


class ToleratesAnything(Flagged):
    pass


class KeyedTrainer(ToyTrainer):
    def save_adapter(self, folder: Path) -> Checkpoint:
        return replace(super().save_adapter(folder), details=dict(os.environ))


class SavesTheEnvironment(Flagged):
    trainer = KeyedTrainer


class SaysThatItIsFree(Paid):
    pass


ACCOUNTS = {
    paid_by(StreamsForFree): "test_what_is_paid_for_is_held_and_settled",
    paid_by(trainer=TrainsForFree): "test_what_is_paid_for_is_held_and_settled",
    paid_by(trainer=StudentsAreFree): "test_what_is_paid_for_is_held_and_settled",
    BakedModelsAreFree: "test_what_is_paid_for_is_held_and_settled",
    paid_by(HoldsUnknownWork): "test_what_is_paid_for_is_held_and_settled",
    paid_by(NeverSettles): "test_what_is_paid_for_is_held_and_settled",
    paid_by(SettlesMoreThanItHeld): "test_what_is_paid_for_is_held_and_settled",
    paid_by(GoesOnWithoutMoney): "test_it_stops_where_the_budget_refuses",
    paid_by(FailsWithoutMoney): "test_it_stops_where_the_budget_refuses",
    paid_by(PaysForAQuote): "test_a_quote_is_in_numbers_and_sends_nothing",
    paid_by(QuotesOnce): "test_a_quote_is_in_numbers_and_sends_nothing",
    paid_by(QuotesWhatIsNoNumber): "test_a_quote_is_in_numbers_and_sends_nothing",
    paid_by(QuotesPromptsAlone): "test_a_quote_covers_what_it_comes_to",
}
FLAGS: dict[type[Toy], tuple[type[Suite], dict[str, Any], str]] = {
    SaysThatAnyNameWillDo: (
        OpeningTests,
        {"takes_any_name": True},
        "test_what_is_no_model_is_refused",
    ),
    SaysThatItExportsNothing: (
        AdapterTests,
        {"exports": False},
        "test_an_adapter_comes_home_in_pefts_format",
    ),
    ToleratesAnything: (
        OpeningTests,
        {"tolerance": 10.0},
        "test_its_flags_let_mistakes_be_seen",
    ),
    SavesTheEnvironment: (AdapterTests, {"keys": ("PATH",)}, "test_no_key_is_seen"),
    SaysThatItIsFree: (AccountTests, {}, "test_what_is_paid_for_is_held_and_settled"),
}

globals().update(suites_for(OpeningTests, "backend", Toy, OPENINGS))
globals().update(suites_for(AccountTests, "backend", Paid, ACCOUNTS, paid=True))
TestGoodAccounts = globals().pop("TestGood")
for kind, (suite, flags, caught_by) in FLAGS.items():
    globals()[f"Test{kind.__name__}"] = suite_for(suite, "backend", kind, caught_by, **flags)
TestHasOneDigest, TestGoodTwoModels = (
    suite_for(OpeningTests, "backend", kind, caught_by, other_model_name=other_model_name)
    for kind, caught_by in (
        (HasOneDigest, "test_another_model_has_another_digest"),
        (HasTwoModels, None),
    )
)
TestGood = suite_for(BackendSuite, "backend", Toy)
