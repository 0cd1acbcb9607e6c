"""What the suite for backends trains students on: examples, objectives, and how far one moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from promptbake.distill.objective import TailedLoss
from promptbake.interfaces import Backend, Model, Objective, Trainer
from promptbake.testing.backends.common import BackendTests, ask, prompts, some_ids
from promptbake.testing.sample_data import datums
from promptbake.types import Datum, Example, LossSupport, TokenIds

RANK = 4
SLACK = 0.1  # of a step: how far rounding may lead students apart that should be the same
K = 4
LEFT = 3  # entries that share what the columns leave
PATIENCE = 40  # steps in which a student learns to be silent
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
class ByValue:
    """An objective that gives no weights: its gradient follows from its value. It may be turned."""

    objective: Objective
    sign: float = 1.0

    def nats(self, student: Tensor, support: LossSupport) -> Tensor:
        """The loss at each response position, nats [N]."""
        return self.sign * self.objective.nats(student, support)

    def weights(self, support: LossSupport) -> None:
        """None, though there may be some."""


class LessonTests(BackendTests):
    """What the tests of students and of their adapters share."""

    @pytest.fixture
    def lesson(self, base: Model) -> list[Example]:
        """A batch to train on."""
        return examples(base)

    def _fresh(self, backend: Backend, base: Model, seed: int = 1) -> Trainer:
        """A LoRA that has learned nothing yet."""
        return backend.new_lora(base, rank=RANK, seed=seed)

    def _moved(self, trainer: Trainer, base: Model, batch: list[Example]) -> float:
        """How far the student is from the base model, in nats; it must be telling."""
        found = apart(standing(trainer, batch), scored(base, batch))
        assert found > 2 * self.tolerance, (
            f"the trained student is {found:.2g} nats from the base model: look whether a step "
            "moves it, and whether a snapshot is the student; or raise `lr`, so that a step can be "
            "told from `tolerance`"
        )
        return found

    def _check_same_step(
        self, found: Trainer, expected: Trainer, base: Model, batch: list[Example], problem: str
    ) -> None:
        """Two students that took one step in the same direction."""
        moved = self._moved(expected, base, batch)
        away = apart(standing(found, batch), standing(expected, batch))
        assert away <= SLACK * moved + self.tolerance, f"{problem} ({away / moved:.0%} of a step)"


def examples(model: Model, seed: int = 0) -> list[Example]:
    """The conversations, with a made-up teacher."""
    found = datums(model)
    return [taught(datum, model, seed + index) for index, datum in enumerate(found)]


def taught(datum: Datum, model: Model, seed: int) -> Example:
    """A datum with a made-up teacher: K tokens a position, the last of which stand for more."""
    (ids,) = some_ids(model, [datum.student], K, seed)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(ids), K + LEFT, generator=generator)
    measure = torch.ones(len(ids), K)
    measure[:, -1] = 1.5
    return Example(datum, LossSupport(ids, logits.log_softmax(dim=1)[:, :K], measure))


def pair(model: Model, first: int, second: int) -> tuple[Example, Example]:
    """Two examples whose responses have so many tokens."""
    one, other = (datum for datum in datums(model)[:2])
    short, long = (_cut(datum, n) for datum, n in ((one, first), (other, second)))
    return taught(short, model, seed=1), taught(long, model, seed=2)


def train(
    trainer: Trainer, batch: Sequence[Example], lr: float, objective: Objective, steps: int = 1
) -> list[float]:
    """Take so many steps; the loss before each."""
    losses = []
    for _ in range(steps):
        losses.append(trainer.forward_backward(batch, objective).result())
        trainer.optim_step(lr).result()
    return losses


def standing(trainer: Trainer, batch: Sequence[Example]) -> Tensor:
    """The student's log-probabilities at all columns, one row a response token."""
    return scored(trainer.snapshot().result(), batch)


def scored(model: Model, batch: Sequence[Example]) -> Tensor:
    """A model's log-probabilities at all columns, one row a response token."""
    spans = [example.datum.student for example in batch]
    return torch.cat(ask(model, spans, [example.support.ids for example in batch]))


def nats(model: Model, batch: Sequence[Example], objective: Objective) -> list[Tensor]:
    """The loss at each response token of each example, by a model's log-probabilities."""
    rows = torch.split(scored(model, batch), [example.datum.n_response for example in batch])
    return [objective.nats(row, example.support) for row, example in zip(rows, batch, strict=True)]


def mean_loss(model: Model, batch: Sequence[Example], objective: Objective) -> float:
    """The loss of a batch: the mean over its response tokens, in nats."""
    return torch.cat(nats(model, batch, objective)).mean().item()


def silent_student(backend: Backend, base: Model, lr: float) -> Model:
    """A student that has learned to end its turn before it says anything."""
    trainer = backend.new_lora(base, rank=4, seed=0)
    end = base.renderer.response("Hm!", complete=True)[-1:]
    columns = LossSupport(torch.tensor([end]), torch.zeros(1, 1), torch.ones(1, 1))
    batch = [
        Example(Datum(f"s{index}", f"q{index}", prompt + end, prompt + end, 1), columns)
        for index, prompt in enumerate(prompts(base))
    ]
    for _ in range(PATIENCE):
        (loss,) = train(trainer, batch, lr, LINEAR)
        if loss < LEARNED:
            return trainer.snapshot().result()
    raise AssertionError(
        f"after {PATIENCE} steps of lr = {lr:g} a student that is to end its turn at once is "
        f"{loss:.2f} nats from it: set `lr` to one at which your trainer learns"
    )


def apart(one: Tensor, other: Tensor) -> float:
    """The mean distance of log-probabilities, in nats."""
    return (one.double() - other.double()).abs().mean().item()


def _cut(datum: Datum, n: int) -> Datum:
    left = datum.n_response - n

    def kept(tokens: TokenIds) -> TokenIds:
        return tokens[: len(tokens) - left]

    return Datum(
        datum.conversation_id, datum.query_id, kept(datum.student_ids), kept(datum.teacher_ids), n
    )
