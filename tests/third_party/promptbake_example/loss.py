"""A loss: the Jeffreys divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class Jeffreys:
    """sum (p - q) (log p - log q), p the teacher and q the student."""

    support: Literal["teacher"] = "teacher"
    linear: bool = False

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """Nats [N] from log-probabilities [N, C]."""
        terms = (teacher.exp() - student.exp()) * (teacher - student)
        return (importance_weights * terms).sum(dim=1)
