"""The conformance suite for losses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

import pytest
import torch
from torch import Tensor

from promptbake.distill.objective import TailedLoss
from promptbake.interfaces import Loss
from promptbake.testing.inputs import InputTests
from promptbake.testing.suite import only_if
from promptbake.types import LossSupport, Tail

N, V = 5, 7  # positions and entries of the vocabulary: two numbers that cannot be mistaken
TOLERANCE = 1e-9  # of sums in float64


@dataclass(frozen=True)
class WorkedExample:
    """A case computed by hand: the probabilities of each token of the support, and the loss."""

    teacher: tuple[float, ...]
    student: tuple[float, ...]
    nats: float


@dataclass(frozen=True)
class Case:
    """The arguments of a loss, in float64, [N, C] each."""

    student: Tensor
    teacher: Tensor
    importance_weights: Tensor

    def apply(self, loss: Loss) -> Tensor:
        """The loss at each position."""
        return loss(self.student, self.teacher, self.importance_weights)

    def map(self, change: Callable[[Tensor], Tensor]) -> Case:
        """The same with each argument changed."""
        return Case(change(self.student), change(self.teacher), change(self.importance_weights))

    def gradient(self, loss: Loss) -> Tensor:
        """Of the sum of the positions' losses, with respect to the student [N, C]."""
        student = self.student.clone().requires_grad_()
        value = Case(student, self.teacher, self.importance_weights).apply(loss).sum()
        (gradient,) = torch.autograd.grad(value, student)
        return gradient


def _is_symmetric(loss: Loss) -> bool:
    given = case(loss)
    other = loss(given.teacher, given.student, given.importance_weights)
    return torch.allclose(given.apply(loss), other)


class LossSuite(InputTests):
    """Fixture `loss`: the loss. `worked_example`: a case that you have computed by hand.

    `divergence = False` is for a loss that may be other than zero where the student is the teacher.
    """

    fixture = "loss"
    worked_example: ClassVar[WorkedExample | None] = None
    divergence: ClassVar[bool] = True

    def _input(self) -> Case:
        return case()

    def _apply(self, loss: Loss, given: Case, folder: Path) -> Tensor:
        if loss.support == "response":
            given = given.map(lambda argument: argument[:, :1])
        return given.apply(loss)

    def test_it_declares_its_support_and_whether_it_is_linear(self, loss: Loss) -> None:
        assert loss.support in ("teacher", "student", "response"), (
            f"`support` is {loss.support!r}: 'teacher' is for the teacher's top tokens, 'student' "
            "for the student's own, 'response' for the response token alone"
        )
        assert isinstance(loss.linear, bool), f"`linear` is {loss.linear!r}: True or False"

    def test_it_returns_one_number_per_position(self, loss: Loss) -> None:
        for n in (1, N):
            shape = tuple(case(loss, n).apply(loss).shape)
            assert shape == (n,), (
                f"{shape} for {n} positions: sum over the support, dim=1, and leave the mean over "
                "the positions to the trainer"
            )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_it_keeps_the_dtype(self, loss: Loss, dtype: torch.dtype) -> None:
        result = case(loss).map(lambda argument: argument.to(dtype)).apply(loss)
        assert result.dtype == dtype, f"{result.dtype} from {dtype}: do not cast"

    def test_it_agrees_with_the_worked_example(self, loss: Loss) -> None:
        example = self.worked_example
        assert example is not None, "set `worked_example` to a case computed by hand"
        student, teacher = (
            torch.tensor([probabilities], dtype=torch.float64).log()
            for probabilities in (example.student, example.teacher)
        )
        weights = torch.ones_like(student)
        nats = loss(student, teacher, weights).item()
        swapped = loss(teacher, student, weights).item()
        if swapped == pytest.approx(nats) and not _is_symmetric(loss):
            warnings.warn(
                "the worked example has the same loss with student and teacher swapped, so it "
                "cannot tell one from the other: choose other probabilities",
                stacklevel=1,
            )
        assert nats == pytest.approx(example.nats, rel=1e-4, abs=1e-6), (
            f"{nats} where the example says {example.nats}: look for log2 instead of log, a mean "
            "instead of a sum, and the student in the place of the teacher"
        )

    @only_if("divergence")
    def test_a_linear_divergence_is_in_nats(self, loss: Loss) -> None:
        given = case(loss)
        gradient = given.gradient(loss)
        expected = -given.importance_weights * given.teacher.exp()
        assert not loss.linear or torch.allclose(gradient, expected, atol=1e-6), (
            "a linear divergence has the gradient -importance_weights * exp(teacher), and this one "
            f"has {(gradient / expected).mean():.3f} times it: 1.443 is bits, 1/C a mean"
        )

    @only_if("divergence")
    def test_it_is_zero_where_the_student_is_the_teacher(self, loss: Loss) -> None:
        given = case(loss)
        nats = loss(given.teacher, given.teacher, given.importance_weights)
        assert nats.abs().max() < TOLERANCE, f"{nats.tolist()}: expected 0 at every position"

    @only_if("divergence")
    def test_it_is_positive_elsewhere(self, loss: Loss) -> None:
        nats = case(loss).apply(loss)
        assert (nats > 0).all(), f"{nats.tolist()}: look at the sign"

    def test_a_token_counts_by_its_importance_weight(self, loss: Loss) -> None:
        given = case(loss)
        more = torch.rand(
            given.student.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        parts = given.apply(loss) + loss(given.student, given.teacher, more)
        whole = loss(given.student, given.teacher, given.importance_weights + more)
        assert torch.allclose(parts, whole, atol=TOLERANCE), (
            "the loss is a sum of importance_weights * term over the support: it must not ignore "
            "the weights, take a mean, or normalise them"
        )
        nothing = loss(given.student, given.teacher, torch.zeros_like(more))
        assert nothing.abs().max() < TOLERANCE, "tokens of weight 0 must count for nothing"

    def test_it_is_a_sum_over_its_support(self, loss: Loss) -> None:
        given = case(loss)
        parts = [given.map(lambda argument: argument[:, :3]).apply(loss),
                 given.map(lambda argument: argument[:, 3:]).apply(loss)]  # fmt: skip
        assert torch.allclose(parts[0] + parts[1], given.apply(loss), atol=TOLERANCE), (
            "the loss of all tokens is not that of three of them plus that of the others: look for "
            "softmax, log_softmax or a division by a sum over the support; `train.tail` "
            "renormalises where a user wants it"
        )

    def test_no_term_is_cut_off(self, loss: Loss) -> None:
        far = case(loss, scale=6.0)
        assert bool((far.gradient(loss) != 0).all()), (
            "the gradient is 0 at log-probabilities down to "
            f"{far.student.min().item():.0f}: look for clamp and for terms that are left out"
        )

    def test_every_token_counts_and_their_order_does_not(self, loss: Loss) -> None:
        given = case(loss)
        flipped = given.map(lambda argument: argument.flip(1)).apply(loss)
        assert torch.allclose(flipped, given.apply(loss), atol=TOLERANCE), (
            "another order of the support gives another loss: look at what treats a token by its "
            "column"
        )
        influence = given.gradient(loss).abs().sum(dim=0)
        assert bool((influence > 0).all()), "a column of the support has no influence on the loss"

    def test_a_position_does_not_depend_on_the_others(self, loss: Loss) -> None:
        given = case(loss)
        together = given.apply(loss)
        rows = [given.map(lambda argument, n=n: argument[n : n + 1]) for n in range(N)]  # type: ignore[misc]
        alone = torch.cat([row.apply(loss) for row in rows])
        assert torch.allclose(alone, together, atol=TOLERANCE), (
            f"positions alone give {alone.tolist()}, together {together.tolist()}: look for a sum, "
            "a mean or a softmax over dim 0"
        )

    def test_its_gradient_is_that_of_its_value(self, loss: Loss) -> None:
        given = case(loss)
        student = given.student.clone().requires_grad_()

        def value(moved: Tensor) -> Tensor:
            return loss(moved, given.teacher, given.importance_weights)

        assert value(student).requires_grad, "it has no gradient: look for detach, item or no_grad"
        assert torch.autograd.gradcheck(value, (student,), raise_exception=False), (
            "its gradient is not the slope of its value: look for detach and for rounding"
        )

    def test_linear_is_what_it_says(self, loss: Loss) -> None:
        given, other = case(loss), case(loss, seed=1)
        middle = loss((given.student + other.student) / 2, given.teacher, given.importance_weights)
        ends = given.apply(loss) + loss(other.student, given.teacher, given.importance_weights)
        linear = torch.allclose(middle, ends / 2, atol=TOLERANCE)
        assert linear == loss.linear, (
            f"`linear` is {loss.linear}: whether the loss is linear in the student's "
            "log-probabilities. If so, a backend may train on its weights alone, in one pass"
        )

    def test_it_is_a_pure_function(self, loss: Loss) -> None:
        first, again = case(loss).apply(loss), case(loss).apply(loss)
        assert torch.equal(first, again), f"{first.tolist()}, and again {again.tolist()}"

    def test_it_is_finite_at_tiny_probabilities(self, loss: Loss) -> None:
        far, near = torch.full((2, 1), -100.0), torch.full((2, 1), -1e-6)
        student, teacher = torch.cat([far, near, far], 1), torch.cat([near, far, far], 1)
        if loss.support == "response":
            student, teacher = far, torch.zeros(2, 1)
        extreme = Case(student, teacher, torch.ones_like(teacher))
        nats, gradient = extreme.apply(loss), extreme.gradient(loss)
        assert bool(torch.cat([nats, gradient.flatten()]).isfinite().all()), (
            f"{nats.tolist()} at log-probabilities of -100: stay in logarithms, by logaddexp or "
            "logsumexp, and do not divide by a probability"
        )

    @pytest.mark.parametrize("tail", get_args(Tail))
    def test_it_works_with_every_treatment_of_the_tail(self, loss: Loss, tail: Tail) -> None:
        given = case(loss).map(lambda argument: argument[:, : V - 2])
        ids = torch.zeros_like(given.teacher).long()
        objective = TailedLoss(loss, tail)
        support = LossSupport(ids, given.teacher, given.importance_weights)
        nats = objective.nats(given.student, support)
        assert nats.shape == (N,), f"train.tail = {tail}: {tuple(nats.shape)}"
        assert bool(nats.isfinite().all()), f"train.tail = {tail}: {nats.tolist()}"
        complete = tail in ("bucket", "renormalize") and objective.requires_teacher
        if self.divergence and complete:
            assert bool((nats > 0).all()), f"train.tail = {tail}: {nats.tolist()}"

    @only_if("divergence")
    def test_its_minimum_is_the_teacher(self, loss: Loss) -> None:
        given = case(loss)
        logits = torch.zeros(N, V, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.1)

        def student() -> Tensor:
            return logits.log_softmax(dim=1)[:, : given.teacher.shape[1]]

        for _ in range(300):
            optimizer.zero_grad()
            loss(student(), given.teacher, given.importance_weights).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        away = (given.teacher.exp() * (given.teacher - student())).sum(dim=1).max().item()
        assert away < 0.05, (
            f"after 300 steps the student is {away:.3f} nats from the teacher: look at the sign "
            "and at the gradient"
        )


def case(loss: Loss | None = None, n: int = N, seed: int = 0, scale: float = 1.0) -> Case:
    """Random distributions over the whole vocabulary, or of the response token alone.

    With a greater `scale` they are sharper.
    """
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        (scale * torch.randn(n, V, generator=generator, dtype=torch.float64)).log_softmax(dim=1)
        for _ in range(2)
    )
    if loss is not None and loss.support == "response":
        student, teacher = student[:, :1], torch.zeros(n, 1, dtype=torch.float64)
    return Case(student, teacher, torch.ones_like(teacher))
