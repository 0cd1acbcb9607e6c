"""Which conversations a step sees, and at which learning rate: functions of the step alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Schedule:
    """Batches in an order drawn anew in each epoch, and a learning rate that falls to 0.

    Nothing is remembered between steps, so a run that resumes at a step does what it would have
    done without the interruption. The last batch of an epoch may be smaller.
    """

    n_examples: int
    batch_size: int
    epochs: int
    lr: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass over the examples."""
        return math.ceil(self.n_examples / self.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.epochs * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        """The epoch that a step (from 0) is in, from 0."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> list[int]:
        """The indices of the examples that a step (from 0) sees."""
        order = _order(self.n_examples, self.seed, self.epoch(step))
        start = step % self.steps_per_epoch * self.batch_size
        return list(order[start : start + self.batch_size])

    def learning_rate(self, step: int) -> float:
        """Linear decay: `lr` at step 0, and 0 after the last."""
        return self.lr * (1 - step / self.steps)


@lru_cache(maxsize=2)  # a step in flight may be of the epoch before
def _order(n_examples: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(n_examples))
    random.Random(f"batches:{seed}:{epoch}").shuffle(order)
    return tuple(order)
