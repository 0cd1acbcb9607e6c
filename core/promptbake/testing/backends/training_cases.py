"""What the suite for backends trains students on: examples, objectives, and how far one moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from promptbake.distill.checkpoints import CHECKPOINT, read_adapter
from promptbake.distill.objective import TailedLoss
from promptbake.files import write_json
from promptbake.interfaces import Backend, Model, Objective, Trainer
from promptbake.testing.backends.common import BackendTests, prompts, score, some_ids
from promptbake.testing.sample_data import datums
from promptbake.types import Checkpoint, Datum, Example, LossSupport

RANK = 4
STEPS = 3
SLACK = 0.1  # of a step: how far rounding may lead students apart that should be the same
K = 4
LEFT_OUT = 3  # entries that share the probability that the support leaves
MOST_STEPS = 40  # in which a student learns to end its turn at once
LEARNED = 0.2  # nats


class ForwardKL:
    """KL(teacher || student), linear in the student's log-probabilities."""

    support: Literal["teacher"] = "teacher"
    linear = True

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """Nats [N]."""
        return (importance_weights * teacher.exp() * (teacher - student)).sum(dim=1)


LINEAR = TailedLoss(ForwardKL(), "sampled")
NONLINEAR = TailedLoss(ForwardKL(), "bucket")


@dataclass(frozen=True)
class WithoutWeights:
    """An objective that gives no weights: its gradient follows from its value, times `sign`."""

    objective: Objective
    sign: float = 1.0

    def nats(self, student: Tensor, support: LossSupport) -> Tensor:
        """The loss at each response position, nats [N]."""
        return self.sign * self.objective.nats(student, support)

    def weights(self, support: LossSupport) -> None:
        """None, though there may be some."""

    def loss_and_gradient(self, student: Tensor, support: LossSupport) -> tuple[Tensor, Tensor]:
        """The loss, nats [N], and its gradient [N, C]."""
        nats, gradient = self.objective.loss_and_gradient(student, support)
        return self.sign * nats, self.sign * gradient


OPPOSITE = WithoutWeights(LINEAR, sign=-1.0)


@dataclass(frozen=True)
class Training:
    """A backend with its base model, and a batch to train LoRAs on."""

    backend: Backend
    base: Model
    lr: float
    tolerance: float
    folder: Path

    @cached_property
    def batch(self) -> list[Example]:
        """The conversations, with a made-up teacher."""
        return examples(self.base)

    def fresh(self, seed: int = 1, rank: int = RANK) -> Trainer:
        """A LoRA that has learned nothing yet."""
        return self.backend.new_lora(self.base, rank=rank, seed=seed)

    def trained(self, steps: int = STEPS, seed: int = 1, rank: int = RANK) -> Trainer:
        """A LoRA after some steps on the batch."""
        trainer = self.fresh(seed, rank)
        self.train(trainer, steps=steps)
        return trainer

    def train(
        self, trainer: Trainer, objective: Objective | None = None, steps: int = 1
    ) -> list[float]:
        """Take so many steps on the batch; the loss before each."""
        return train(trainer, self.batch, self.lr, objective or LINEAR, steps)

    def after_a_step(self, objective: Objective, *batches: Sequence[Example]) -> Trainer:
        """A LoRA after one step by the gradients of some batches."""
        trainer = self.fresh()
        for batch in batches:
            trainer.forward_backward(batch, objective).result()
        trainer.optim_step(self.lr).result()
        return trainer

    def saved(self, trainer: Trainer, name: str = "adapter") -> Checkpoint:
        """An adapter that is written into a folder and read back, as the core does it."""
        scratch, folder = self.empty("scratch"), self.folder / name
        write_json(scratch / CHECKPOINT, vars(trainer.save_adapter(scratch)))
        scratch.rename(folder)
        return read_adapter(folder, self.backend.name, self.base)

    def no_adapter(self) -> Checkpoint:
        """The record of an adapter whose folder is empty."""
        folder = str(self.empty("nothing"))
        return Checkpoint(self.backend.name, self.base.name, self.base.digest, folder)

    def empty(self, name: str) -> Path:
        """An empty folder."""
        (self.folder / name).mkdir()
        return self.folder / name

    def load(self, checkpoint: Checkpoint, strength: float = 1.0) -> Tensor:
        """The log-probabilities of the baked model."""
        return self.of(self.backend.load_adapter(self.base, checkpoint, strength=strength))

    def of(self, model: Model) -> Tensor:
        """A model's log-probabilities on the batch's support, one row a response token."""
        return model_logprobs(model, self.batch)

    def of_student(self, trainer: Trainer) -> Tensor:
        """As `of`, of the student as it stands."""
        return self.of(trainer.snapshot().result())

    def distance_from_base(self, trainer: Trainer) -> float:
        """How far the student is from the base model, in nats; refuse too little to be seen."""
        nats = distance(self.of_student(trainer), self.of(self.base))
        assert nats > 2 * self.tolerance, (
            f"the trained student is {nats:.2g} nats from the base model: look whether a step "
            "moves it, and whether a snapshot is the student; or raise `lr`, so that a step can be "
            "told from `tolerance`"
        )
        return nats

    def check_same_student(
        self, trainer: Trainer, expected: Trainer, problem: str, slack: float = SLACK
    ) -> None:
        """Refuse two students that took other steps; `slack` is a share of these."""
        steps = self.distance_from_base(expected)
        nats = distance(self.of_student(trainer), self.of_student(expected))
        assert nats <= slack * steps + self.tolerance, (
            f"{problem} (the students are {nats:.2g} nats apart, and {steps:.2g} from the base)"
        )


class TrainingTests(BackendTests):
    """The fixture that the tests of students and of their adapters share."""

    @pytest.fixture
    def training(self, backend: Backend, base: Model, tmp_path: Path) -> Training:
        """The backend, with what its LoRAs are trained on."""
        return Training(backend, base, self.lr, self.tolerance, tmp_path)


def examples(model: Model) -> list[Example]:
    """The conversations, with a made-up teacher."""
    return [taught(datum, model, seed) for seed, datum in enumerate(datums(model))]


def taught(datum: Datum, model: Model, seed: int) -> Example:
    """A datum with a made-up teacher: K tokens a position, the last of which stands for more."""
    (ids,) = some_ids(model, [datum.student], K, seed)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(ids), K + LEFT_OUT, generator=generator)
    importance_weights = torch.ones(len(ids), K)
    importance_weights[:, -1] = 1.5
    return Example(datum, LossSupport(ids, logits.log_softmax(dim=1)[:, :K], importance_weights))


def pair(model: Model, first: int, second: int) -> tuple[Example, Example]:
    """Two examples whose responses have so many tokens."""
    one, other, *_ = datums(model)
    return taught(_cut(one, first), model, seed=1), taught(_cut(other, second), model, seed=2)


def weighted(example: Example, weight: float) -> Example:
    """The example as one of a target with a weight."""
    return replace(example, support=replace(example.support, weight=weight))


def train(
    trainer: Trainer, batch: Sequence[Example], lr: float, objective: Objective, steps: int = 1
) -> list[float]:
    """Take so many steps; the loss before each."""
    losses = []
    for _ in range(steps):
        losses.append(trainer.forward_backward(batch, objective).result())
        trainer.optim_step(lr).result()
    return losses


def model_logprobs(model: Model, batch: Sequence[Example]) -> Tensor:
    """A model's log-probabilities on the examples' support, one row a response token."""
    spans = [example.datum.student for example in batch]
    return torch.cat(score(model, spans, [example.support.ids for example in batch]))


def nats_by_example(model: Model, batch: Sequence[Example], objective: Objective) -> list[Tensor]:
    """The loss at each response token of each example, by a model's log-probabilities."""
    counts = [example.datum.n_response for example in batch]
    rows = torch.split(model_logprobs(model, batch), counts)
    return [objective.nats(row, example.support) for row, example in zip(rows, batch, strict=True)]


def mean_loss(model: Model, batch: Sequence[Example], objective: Objective) -> float:
    """The loss of a batch: the mean over its response tokens, in nats."""
    return torch.cat(nats_by_example(model, batch, objective)).mean().item()


def silent_student(backend: Backend, base: Model, lr: float) -> Model:
    """A student that has learned to end its turn before it says anything."""
    trainer = backend.new_lora(base, rank=RANK, seed=0)
    end = base.renderer.response("Hm!", complete=True)[-1:]
    support = LossSupport(torch.tensor([end]), torch.zeros(1, 1), torch.ones(1, 1))
    batch = [
        Example(Datum(f"s{index}", f"q{index}", prompt + end, prompt + end, 1), support)
        for index, prompt in enumerate(prompts(base))
    ]
    for _ in range(MOST_STEPS):
        (loss,) = train(trainer, batch, lr, LINEAR)
        if loss < LEARNED:
            return trainer.snapshot().result()
    raise AssertionError(
        f"after {MOST_STEPS} steps of lr = {lr:g} a student that is to end its turn at once is "
        f"{loss:.2f} nats from it: set `lr` to one at which your trainer learns"
    )


def distance(one: Tensor, other: Tensor) -> float:
    """The mean distance of log-probabilities, in nats."""
    return (one.double() - other.double()).abs().mean().item()


def _cut(datum: Datum, n: int) -> Datum:
    end = n - datum.n_response or None
    return replace(
        datum,
        student_ids=datum.student_ids[:end],
        teacher_ids=datum.teacher_ids[:end],
        n_response=n,
    )
