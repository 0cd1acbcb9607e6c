"""What is minimised: a loss over the teacher's top K tokens, and what stands for the others.

The forward KL of Eq. 3 (arXiv 2409.13697) is a sum over the whole vocabulary. The teacher's top K
tokens are summed exactly; `tail` says how the others are treated:

- `sampled`: M tokens drawn by the teacher stand for it, each with its importance weight: P_tail /
  (M p) where they come from the tail alone. Linear where the loss is, and unbiased.
- `bucket`: the tail is one more outcome, of mass 1 - sum_k. A lower bound of the full divergence
  (data processing), exact at K = V.
- `renormalize`: teacher and student are renormalised over the K.
- `drop`: nothing. No divergence any more: the minimum puts no mass outside the K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from promptbake.interfaces import Loss
from promptbake.plugins.attribution import contract_error
from promptbake.types import Datum, LossSupport, Tail, TeacherLogprobs

FLOOR = -40.0  # nats: below this a mass is rounding error in float32, and in effect zero


@dataclass(frozen=True)
class TailedLoss:
    """A loss with its treatment of the tail: the Objective that a trainer is given."""

    loss: Loss
    tail: Tail

    @property
    def requires_teacher(self) -> bool:
        """Whether the teacher's distribution is needed."""
        return self.loss.support != "response"

    def draws(self, tail_draws: int) -> int:
        """How many of `train.tail_draws` draws from the tail are needed at each position."""
        return tail_draws if self.requires_teacher and self.tail == "sampled" else 0

    @property
    def is_linear(self) -> bool:
        """Whether it is linear in the student's log-probabilities."""
        nonlinear_tail = self.requires_teacher and self.tail in ("bucket", "renormalize")
        return self.loss.linear and not nonlinear_tail

    def support(
        self, datum: Datum, scores: TeacherLogprobs | None, weight: float = 1.0
    ) -> LossSupport:
        """The token ids [N, C] that the loss is evaluated on, as the teacher scored them.

        Args:
            datum: The conversation.
            scores: The teacher's top K and draws; None where the loss needs no teacher. For a loss
                on the student's own tokens, the student's ids with the teacher's log-probabilities.
            weight: Of the example's loss.
        """
        if not self.requires_teacher:
            ids = torch.tensor(datum.response_ids).unsqueeze(1)
            return LossSupport(ids, torch.zeros(ids.shape), torch.ones(ids.shape), weight)
        if scores is None:
            raise ValueError(f"{datum.conversation_id}: the loss needs the teacher's scores")
        ones = torch.ones_like(scores.logprobs)
        if self.tail != "sampled":
            return LossSupport(scores.ids, scores.logprobs, ones, weight)
        return LossSupport(
            torch.cat([scores.ids, scores.drawn_ids], dim=1),
            torch.cat([scores.logprobs, scores.drawn_logprobs], dim=1),
            torch.cat([ones, scores.drawn_importance_weights], dim=1),
            weight,
        )

    def nats(self, student: Tensor, support: LossSupport) -> Tensor:
        """The loss at each response position, nats [N], of log-probabilities [N, C]."""
        teacher = support.logprobs.to(student)
        importance_weights = support.importance_weights.to(student)
        if self.requires_teacher and self.tail == "bucket":
            student = torch.cat([student, rest(student)], dim=1)
            teacher = torch.cat([teacher, rest(teacher)], dim=1)
            one = torch.ones_like(importance_weights[:, :1])
            importance_weights = torch.cat([importance_weights, one], dim=1)
        if self.requires_teacher and self.tail == "renormalize":
            student, teacher = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
        nats = self.loss(student, teacher, importance_weights)
        shape = tuple(getattr(nats, "shape", ()))
        if shape != (len(student),):
            raise contract_error(
                self.loss, f"gave a result of shape {shape} for N = {len(student)}: expected [N]"
            )
        return nats if support.weight == 1 else support.weight * nats

    def weights(self, support: LossSupport) -> Tensor | None:
        """The weights [N, C] of a weighted cross-entropy with this gradient, if there are any.

        A loss that is linear in the student's log-probabilities is one, up to a constant, unless
        the tail's treatment is not.
        """
        if not self.is_linear:
            return None
        _, gradient = self.loss_and_gradient(torch.zeros_like(support.logprobs), support)
        return -gradient

    def loss_and_gradient(self, student: Tensor, support: LossSupport) -> tuple[Tensor, Tensor]:
        """The loss, nats [N], and its gradient [N, C], for a backend without autograd."""
        student = student.detach().requires_grad_()
        with torch.enable_grad():
            nats = self.nats(student, support)
            (gradient,) = torch.autograd.grad(nats.sum(), student)
        return nats.detach(), gradient


def tail_importance_weights(logprobs: Tensor, drawn_logprobs: Tensor) -> Tensor:
    """The importance weights [N, M] of draws from outside the top K [N, K]: P_tail / (M p)."""
    n_draws = max(drawn_logprobs.shape[1], 1)
    return (rest(logprobs) - math.log(n_draws) - drawn_logprobs).exp()


def mask_top_k_draws(
    top_ids: Tensor, ids: Tensor, logprobs: Tensor, importance_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws [N, M] from the whole vocabulary as draws from outside the top K [N, K].

    The same draws, with importance weight 0 for those inside the top K.
    """
    inside = (ids.unsqueeze(2) == top_ids.unsqueeze(1)).any(dim=2)
    return ids, logprobs, importance_weights.masked_fill(inside, 0.0)


def rest(logprobs: Tensor) -> Tensor:
    """Log of the mass that is not on the support: [N, C] to [N, 1], never below FLOOR."""
    total = logprobs.logsumexp(dim=1, keepdim=True)
    # log(1 - e^total); where rounding leaves nothing, the mass is in effect zero.
    return torch.log((-torch.expm1(total)).clamp(min=math.exp(FLOOR)))


def full_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) at each position, nats [N], over the whole vocabulary [N, V]."""
    return (teacher.exp() * (teacher - student)).sum(dim=1)
