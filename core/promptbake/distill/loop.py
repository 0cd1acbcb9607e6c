"""The loop of prompt baking: a gradient, a step, again.

Prompt Baking, arXiv 2409.13697, Eq. 3, in Tinker's verbs, so that every backend shares it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from promptbake.distill.schedule import Schedule
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import (
    BatchSource,
    Model,
    Objective,
    Pending,
    Trainer,
    TrainingState,
)
from promptbake.types import StepMetrics


@dataclass(frozen=True)
class Step:
    """An optimizer step in flight, and what is requested of the student as it stands after it."""

    metrics: StepMetrics
    loss: Pending[float]
    stepped: Pending[None]
    snapshot: Pending[Model] | None = None
    state: Pending[TrainingState] | None = None

    def wait(self, since: float) -> Step:
        """Wait for the step: with its loss, and the seconds since the loop began it."""
        loss = self.loss.result()  # first: where it has failed, the step may never come
        self.stepped.result()
        seconds = time.monotonic() - since
        if not math.isfinite(loss):
            raise BakeError(
                f"step {self.metrics.step}: the loss is {loss}; lower train.lr and bake again"
            )
        return replace(self, metrics=replace(self.metrics, loss=loss, seconds=seconds))


def steps(
    student: Trainer,
    batches: BatchSource,
    objective: Objective,
    schedule: Schedule,
    first: int = 0,
    eval_every: int = 0,
    save_every: int = 0,
) -> Iterator[Step]:
    """The loop of prompt baking, from step `first` on: a gradient, a step, again.

    The next step is sent before the last one is waited for, up to the trainer's `steps_in_flight`.

    Args:
        student: The LoRA in training.
        batches: Where each step's batch comes from.
        objective: What is minimised.
        schedule: How many steps, and at which learning rate.
        first: The steps that were taken before.
        eval_every: Steps between snapshots of the student; 0 for none.
        save_every: Steps between states to resume from; 0 for none.

    Raises:
        BudgetError: The budget is reached; what was sent has been waited for.
    """
    in_flight: deque[Step] = deque()
    over_budget: BudgetError | None = None
    for step in range(first, schedule.steps):
        since = time.monotonic()  # what happens between two steps counts for neither
        try:
            batch = batches.next_batch(step, student)
            loss = student.forward_backward(batch, objective)
        except BudgetError as reached:
            over_budget = reached
            break
        stepped = student.optim_step(schedule.learning_rate(step))
        taken, last = step + 1, step + 1 == schedule.steps
        in_flight.append(
            Step(
                StepMetrics(
                    step=taken,
                    steps=schedule.steps,
                    epoch=schedule.epoch(step) + 1,
                    lr=schedule.learning_rate(step),
                    tokens=sum(example.datum.n_response for example in batch),
                ),
                loss,
                stepped,
                student.snapshot() if eval_every and (last or taken % eval_every == 0) else None,
                student.save_state(taken) if save_every and taken % save_every == 0 else None,
            )
        )
        while len(in_flight) >= student.steps_in_flight:
            yield in_flight.popleft().wait(since)
    while in_flight:
        yield in_flight.popleft().wait(time.monotonic())
    if over_budget:
        raise over_budget
