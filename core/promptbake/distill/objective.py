"""What is minimised: a loss over the teacher's top K tokens, and what stands for the others.

The forward KL of Eq. 3 (arXiv 2409.13697) is a sum over the whole vocabulary. The teacher's top K
tokens are summed exactly; `tail` says what becomes of the others:

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

from promptbake.errors import BakeError, ContractError
from promptbake.interfaces import Loss
from promptbake.types import Datum, LossSupport, Span, Tail, TeacherLogprobs

FLOOR = -40.0  # nats: below this a mass is rounding error in float32, and in effect zero
NEVER = 1e-9  # a probability: a response with such a token is not this model's own


@dataclass(frozen=True)
class TailedLoss:
    """A loss with its treatment of the tail: the Objective that a trainer is given."""

    loss: Loss
    tail: Tail

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher's distribution is needed."""
        return self.loss.targets == "teacher"

    def draws(self, tail_draws: int) -> int:
        """How many draws for the tail are needed at each position, of `train.tail_draws`."""
        return tail_draws if self.asks_teacher and self.tail == "sampled" else 0

    @property
    def linear(self) -> bool:
        """Whether it is linear in the student's log-probabilities."""
        bends = self.asks_teacher and self.tail in ("bucket", "renormalize")
        return self.loss.linear and not bends

    def columns(self, datum: Datum, targets: TeacherLogprobs | None) -> LossSupport:
        """The columns [N, C] that the loss needs the student's log-probabilities of."""
        if not self.asks_teacher:
            ids = torch.tensor(datum.response_ids).unsqueeze(1)
            return LossSupport(ids, torch.zeros(ids.shape), torch.ones(ids.shape))
        if targets is None:
            raise ValueError(f"{datum.conversation_id}: the loss needs the teacher's targets")
        if self.tail != "sampled":
            return LossSupport(targets.ids, targets.logprobs, torch.ones_like(targets.logprobs))
        return LossSupport(
            torch.cat([targets.ids, targets.drawn_ids], dim=1),
            torch.cat([targets.logprobs, targets.drawn_logprobs], dim=1),
            torch.cat([torch.ones_like(targets.logprobs), targets.drawn_importance_weights], dim=1),
        )

    def nats(self, student: Tensor, columns: LossSupport) -> Tensor:
        """The loss at each response position, nats [N], of log-probabilities [N, C]."""
        teacher, measure = columns.logprobs.to(student), columns.measure.to(student)
        if self.asks_teacher and self.tail == "bucket":
            student = torch.cat([student, rest(student)], dim=1)
            teacher = torch.cat([teacher, rest(teacher)], dim=1)
            measure = torch.cat([measure, torch.ones_like(measure[:, :1])], dim=1)
        if self.asks_teacher and self.tail == "renormalize":
            student, teacher = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
        nats = self.loss(student, teacher, measure)
        shape = tuple(getattr(nats, "shape", ()))
        if shape != (len(student),):
            raise ContractError(
                self.loss, f"gave a result of shape {shape} for N = {len(student)}: expected [N]"
            )
        return nats

    def weights(self, columns: LossSupport) -> Tensor | None:
        """The weights [N, C] of a weighted cross-entropy with this gradient, if there are any.

        A loss that is linear in the student's log-probabilities is one, up to a constant, unless
        the tail's treatment bends it.
        """
        if not self.linear:
            return None
        student = torch.zeros_like(columns.logprobs, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.nats(student, columns).sum(), student)
        return -gradient


def tail_importance_weights(logprobs: Tensor, drawn_logprobs: Tensor) -> Tensor:
    """The measure [N, M] of draws from outside the top K [N, K]: P_tail / (M p) each."""
    n_draws = max(drawn_logprobs.shape[1], 1)
    return (rest(logprobs) - math.log(n_draws) - drawn_logprobs).exp()


def response_token_as_draw(
    span: Span, logprobs: Tensor, top: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The response as one draw from the teacher: ids, log-probabilities, measure, each [N, 1].

    For a teacher that draws nothing itself. `logprobs` [N] are those of the response's own tokens,
    `top` [N, K] those of the top K, most likely first. A token y was drawn with p_T(y) =
    p(y)^(1/T) / Z, of the span's temperature T, so its measure is 1 / p_T(y). Of Z, the sum of
    p^(1/T) over the vocabulary, the top K's part is known; the tail's is taken as if its tokens
    were half as likely as the K-th. At T = 1 that is exact.

    Raises BakeError for a response that this model would not have given.
    """
    ids = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
    logprobs = logprobs.unsqueeze(1)
    power = 1 / max(span.temperature, 1e-2)
    tail = (-torch.expm1(top.logsumexp(dim=1, keepdim=True))).clamp(min=0)
    typical = top[:, -1:] - math.log(2)
    normaliser = (power * top).exp().sum(dim=1, keepdim=True)
    normaliser = normaliser + tail * ((power - 1) * typical).exp()
    drawn_with = (power * logprobs).exp() / normaliser
    if bool((drawn_with < NEVER).any()):
        raise BakeError(
            f"{span.name or 'a sequence'}: has a token that the prompted model would not say at "
            f"temperature {span.temperature:g} in a billion times, so it cannot stand for the "
            "tail; set train.tail=bucket"
        )
    return ids, logprobs, 1 / drawn_with


def mask_top_k_draws(
    top_ids: Tensor, ids: Tensor, logprobs: Tensor, measure: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws [N, M] from the whole vocabulary as draws for what is outside the top K [N, K].

    The same draws, with measure 0 for those that fell into the top K.
    """
    inside = (ids.unsqueeze(2) == top_ids.unsqueeze(1)).any(dim=2)
    return ids, logprobs, measure.masked_fill(inside, 0.0)


def rest(logprobs: Tensor) -> Tensor:
    """Log of the mass that is not in the columns: [N, C] to [N, 1], never below FLOOR."""
    total = logprobs.logsumexp(dim=1, keepdim=True)
    # log(1 - e^total); where rounding leaves nothing, the mass is in effect zero.
    return torch.log((-torch.expm1(total)).clamp(min=math.exp(FLOOR)))


def full_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) at each position, nats [N], over the whole vocabulary [N, V]."""
    return (teacher.exp() * (teacher - student)).sum(dim=1)
