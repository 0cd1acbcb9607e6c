"""Divergences as sums over the support: p is the teacher, q the student."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from promptbake import BakeError


@dataclass(frozen=True)
class ForwardKL:
    """sum p (log p - log q): linear in log q, so its weights are p."""

    support: Literal["teacher"] = "teacher"
    linear: bool = True

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """Nats [N]."""
        return (importance_weights * teacher.exp() * (teacher - student)).sum(dim=1)


@dataclass(frozen=True)
class ReverseKL:
    """sum q (log q - log p)."""

    support: Literal["teacher"] = "teacher"
    linear: bool = False

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """Nats [N]."""
        return (importance_weights * student.exp() * (student - teacher)).sum(dim=1)


@dataclass(frozen=True)
class JSD:
    """beta KL(p || m) + (1 - beta) KL(q || m) with the mixture m = beta p + (1 - beta) q.

    Agarwal et al. 2024, "On-Policy Distillation of Language Models", arXiv 2306.13649, Eq. 1.
    """

    beta: float
    support: Literal["teacher"] = "teacher"
    linear: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.beta < 1:
            raise BakeError(f"options.losses.jsd.beta: expected 0 < beta < 1, found {self.beta}")

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """Nats [N]."""
        log_beta, log_rest = math.log(self.beta), math.log1p(-self.beta)
        mixture = torch.logaddexp(log_beta + teacher, log_rest + student)
        from_teacher = self.beta * teacher.exp() * (teacher - mixture)
        from_student = (1 - self.beta) * student.exp() * (student - mixture)
        return (importance_weights * (from_teacher + from_student)).sum(dim=1)


@dataclass(frozen=True)
class CrossEntropy:
    """-log q of the response token."""

    support: Literal["response"] = "response"
    linear: bool = True

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """Nats [N]."""
        return -(importance_weights * teacher.exp() * student).sum(dim=1)
