"""A loss: the divergence of Jeffreys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Jeffreys:
    """sum (p - q) (log p - log q), p the teacher and q the student."""

    targets: Literal["teacher"] = "teacher"
    linear: bool = False

    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        """Nats [N] from log-probabilities [N, C]."""
        return (measure * (teacher.exp() - student.exp()) * (teacher - student)).sum(dim=1)
