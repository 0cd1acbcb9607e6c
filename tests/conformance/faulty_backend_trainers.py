"""Faulty trainers. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from faulty_suites import suites_for
from torch import Tensor
from toy_backend import Toy, ToyTrainer, trained_by

from promptbake.interfaces import Model, Objective, Pending
from promptbake.testing.backends.trainers import TrainerTests
from promptbake.types import Datums, Example, ImmediateResult, LossSupport
from promptbake_torch.lora import LoraSettings
from promptbake_torch.model import TorchModel

SEEDS = itertools.count()


@dataclass(frozen=True)
class Scaled:
    """An objective times a factor of the batch's."""

    objective: Objective
    factor: Callable[[LossSupport], float]

    def nats(self, student: Tensor, columns: LossSupport) -> Tensor:
        return self.factor(columns) * self.objective.nats(student, columns)

    def weights(self, columns: LossSupport) -> Tensor | None:
        return None


@dataclass(frozen=True)
class Late:
    """A result that is worked out when it is asked for."""

    make: Callable[[], Any]

    def result(self) -> Any:
        return self.make()


# --- the loss and its gradient


class MeanOfTheRowsMeans(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        mean = sum(example.datum.n_response for example in batch) / len(batch)
        return super().forward_backward(batch, Scaled(objective, lambda c: mean / len(c.ids)))


class Summed(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        tokens = sum(example.datum.n_response for example in batch)
        return super().forward_backward(batch, Scaled(objective, lambda _: tokens))


class CountsThePromptsTokens(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        tokens = sum(example.datum.n_response for example in batch)
        whole = sum(len(example.datum.student_ids) for example in batch)
        return super().forward_backward(batch, Scaled(objective, lambda _: tokens / whole))


class ReadsThePrompt(ToyTrainer):
    """Trains on what the teacher reads."""

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        prompted = [
            replace(each, datum=replace(each.datum, student_ids=each.datum.teacher_ids))
            for each in batch
        ]
        return super().forward_backward(prompted, objective)


class GivesATensor(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[Any]:
        return ImmediateResult(torch.tensor(super().forward_backward(batch, objective).result()))


class Climbs(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        loss = super().forward_backward(batch, Scaled(objective, lambda _: -1.0)).result()
        return ImmediateResult(-loss)


class RightLossAndTheGradientOfRows(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        before = [each.grad for each in self._parameters]
        loss = super().forward_backward(batch, objective).result()
        for each, gradient in zip(self._parameters, before, strict=True):
            each.grad = gradient
        mean = sum(example.datum.n_response for example in batch) / len(batch)
        super().forward_backward(batch, Scaled(objective, lambda c: mean / len(c.ids)))
        return ImmediateResult(loss)


class WeightsAreNotDivided(ToyTrainer):
    """The weights of a linear loss go into a sum."""

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        tokens = sum(example.datum.n_response for example in batch)
        if objective.weights(batch[0].columns) is None:
            return super().forward_backward(batch, objective)
        loss = super().forward_backward(batch, Scaled(objective, lambda _: tokens)).result()
        return ImmediateResult(loss / tokens)


class KeepsTheGradient(ToyTrainer):
    """A step does not clear it."""

    def optim_step(self, lr: float) -> Pending[None]:
        kept = [None if each.grad is None else each.grad.clone() for each in self._parameters]
        super().optim_step(lr)
        for each, gradient in zip(self._parameters, kept, strict=True):
            each.grad = gradient
        return ImmediateResult(None)


class ClearsAtEachCall(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        self._optimizer.zero_grad()
        return super().forward_backward(batch, objective)


# --- steps


class IgnoresTheLearningRate(ToyTrainer):
    def optim_step(self, lr: float) -> Pending[None]:
        return super().optim_step(1e-2)


class TakesOneRateForAll(ToyTrainer):
    """But for none at all."""

    def optim_step(self, lr: float) -> Pending[None]:
        return super().optim_step(1e-2 if lr else 0.0)


class StepsUnasked(ToyTrainer):
    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        found = super().forward_backward(batch, objective)
        super().optim_step(1e-2)
        return found


class NeverSteps(ToyTrainer):
    def optim_step(self, lr: float) -> Pending[None]:
        return super().optim_step(0.0)


class WorksWhenAsked(ToyTrainer):
    """The loss is worked out when it is waited for."""

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        super().forward_backward(batch, objective)

        def loss() -> float:
            kept = [each.grad for each in self._parameters]
            found = super(WorksWhenAsked, self).forward_backward(batch, objective).result()
            for each, gradient in zip(self._parameters, kept, strict=True):
                each.grad = gradient
            return found

        return Late(loss)


class TrainsInThePreflight(ToyTrainer):
    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        with torch.no_grad():
            for each in self._parameters:
                each.add_(0.01)
        return ()


class SaysOneLine(ToyTrainer):
    def preflight(self, *, k: int, draws: int) -> Any:
        return "the service draws no tokens"


class WantsNoSteps(ToyTrainer):
    steps_in_flight = 0


# --- LoRAs


class StartsSomewhere(ToyTrainer):
    def __init__(self, *how: Any) -> None:
        super().__init__(*how)
        with torch.no_grad():
            for each in self._parameters:
                each.add_(0.02)


class Unseeded(ToyTrainer):
    def __init__(self, base: TorchModel, backend: str, settings: LoraSettings, rank: int, _: int):
        super().__init__(base, backend, settings, rank, next(SEEDS))


class OneSeedForAll(ToyTrainer):
    def __init__(self, base: TorchModel, backend: str, settings: LoraSettings, rank: int, _: int):
        super().__init__(base, backend, settings, rank, 0)


class OneRankForAll(ToyTrainer):
    def __init__(self, base: TorchModel, backend: str, settings: LoraSettings, _: int, seed: int):
        super().__init__(base, backend, settings, 8, seed)


class TheStudentIsTheBaseModel(ToyTrainer):
    def snapshot(self) -> Pending[Model]:
        return ImmediateResult(self.base)


class RemembersThePrefix(ToyTrainer):
    """What was computed before a step is used after it."""

    def optim_step(self, lr: float) -> Pending[None]:
        kept = dict(self._engine._prefixes)
        found = super().optim_step(lr)
        self._engine._prefixes.update(kept)
        return found


class TheBaseModelLearns(Toy):
    """The base model answers with the LoRA that is in training."""

    def new_lora(self, base: TorchModel, **how: Any) -> ToyTrainer:
        trainer = super().new_lora(base, **how)
        base.adapter = trainer._adapter
        return trainer


class OneLoraForAll(Toy):
    """A second LoRA takes the first one's place."""

    last: ToyTrainer | None = None

    def new_lora(self, base: TorchModel, **how: Any) -> ToyTrainer:
        new = super().new_lora(base, **how)
        if self.last is not None:
            vars(self.last).update(vars(new))
        self.last = new
        return new


class TakesDatumsForTokens(Toy):
    """`per_token` sends K datums a conversation, and takes each for one of its own."""

    def new_lora(
        self, base: TorchModel, *, rank: int, seed: int, datums: Datums = "one"
    ) -> ToyTrainer:
        kind = CountsThePromptsTokens if datums == "per_token" else ToyTrainer
        return kind(base, self.name, LoraSettings(), rank, seed)


SPOILT = {
    MeanOfTheRowsMeans: "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
    Summed: "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
    CountsThePromptsTokens: "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
    ReadsThePrompt: "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
    GivesATensor: "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
    RemembersThePrefix: "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
    TheStudentIsTheBaseModel: "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
    Climbs: "test_training_lowers_the_loss",
    NeverSteps: "test_training_lowers_the_loss",
    RightLossAndTheGradientOfRows: "test_every_response_token_pulls_alike",
    WeightsAreNotDivided: "test_a_linear_loss_trains_alike_by_its_weights_and_by_its_value",
    KeepsTheGradient: "test_a_step_clears_the_gradient",
    ClearsAtEachCall: "test_the_gradient_gathers_until_a_step",
    IgnoresTheLearningRate: "test_a_step_goes_as_far_as_the_learning_rate_says",
    TakesOneRateForAll: "test_a_step_goes_as_far_as_the_learning_rate_says",
    StepsUnasked: "test_nothing_moves_without_a_step",
    TrainsInThePreflight: "test_nothing_moves_without_a_step",
    WorksWhenAsked: "test_what_is_asked_is_done_in_order_whenever_it_is_waited_for",
    SaysOneLine: "test_it_says_how_many_steps_it_wants_and_what_it_found",
    WantsNoSteps: "test_it_says_how_many_steps_it_wants_and_what_it_found",
    StartsSomewhere: "test_a_fresh_lora_answers_as_the_base_model",
    Unseeded: "test_the_same_seed_starts_the_same_lora",
    OneSeedForAll: "test_the_same_seed_starts_the_same_lora",
    TheBaseModelLearns: "test_the_base_model_stays_as_it_is",
    OneLoraForAll: "test_two_loras_train_side_by_side",
    TakesDatumsForTokens: "test_datums_are_refused_or_train_alike",
}
BACKENDS = {
    kind if issubclass(kind, Toy) else trained_by(kind): caught_by
    for kind, caught_by in SPOILT.items()
}

globals().update(suites_for(TrainerTests, "backend", Toy, BACKENDS))
