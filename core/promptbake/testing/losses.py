"""The conformance suite for losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, get_args

import pytest
import torch
from torch import Tensor

from promptbake.distill.objective import TailedLoss
from promptbake.interfaces import Loss
from promptbake.testing.suite import Suite
from promptbake.types import LossSupport, Tail

N, V = 5, 7  # positions and entries of the vocabulary: two numbers that cannot be mistaken
TOLERANCE = 1e-9  # of sums in float64


@dataclass(frozen=True)
class Worked:
    """A case worked by hand: the probabilities of every column, and what the loss comes to."""

    teacher: tuple[float, ...]
    student: tuple[float, ...]
    nats: float


@dataclass(frozen=True)
class Case:
    """The arguments of a loss, in float64, [N, C] each."""

    student: Tensor
    teacher: Tensor
    measure: Tensor

    def of(self, loss: Loss) -> Tensor:
        """The loss of it."""
        return loss(self.student, self.teacher, self.measure)

    def changed(self, change: Callable[[Tensor], Tensor]) -> Case:
        """The same with each argument changed."""
        return Case(change(self.student), change(self.teacher), change(self.measure))


class LossSuite(Suite):
    """Fixture `loss`: the loss. `worked`: a case that you have worked by hand.

    `divergence = False` is for a loss that may be other than zero where the student is the teacher.
    """

    worked: ClassVar[Worked | None] = None
    divergence: ClassVar[bool] = True

    def test_it_says_what_it_is_computed_on(self, loss: Loss) -> None:
        assert loss.targets in ("teacher", "response"), (
            f"`targets` is {loss.targets!r}: 'teacher' gets the teacher's distribution, 'response' "
            "the response token alone"
        )
        assert isinstance(loss.linear, bool), f"`linear` is {loss.linear!r}: True or False"

    def test_it_gives_one_number_for_each_position(self, loss: Loss) -> None:
        for n in (1, N):
            found = case(loss, n).of(loss)
            assert found.shape == (n,), (
                f"{tuple(found.shape)} for {n} positions: sum over the columns, dim=1, and leave "
                "the mean over the positions to the trainer"
            )

    def test_it_keeps_the_type_of_its_input(self, loss: Loss) -> None:
        for dtype in (torch.float32, torch.float64):
            found = case(loss).changed(lambda given, to=dtype: given.to(to)).of(loss)  # type: ignore[misc]
            assert found.dtype == dtype, f"{found.dtype} from {dtype}: do not cast"

    def test_it_agrees_with_the_case_worked_by_hand(self, loss: Loss) -> None:
        worked = self.worked
        assert worked is not None, "set `worked` to a case of two or three columns worked by hand"
        student, teacher = (
            torch.tensor([given], dtype=torch.float64).log()
            for given in (worked.student, worked.teacher)
        )
        found = loss(student, teacher, torch.ones_like(student)).item()
        assert found == pytest.approx(worked.nats, rel=1e-4, abs=1e-6), (
            f"{found} where the case says {worked.nats}: look for log2 in the place of log, a mean "
            "in the place of a sum, and the student in the place of the teacher"
        )

    def test_it_is_in_nats(self, loss: Loss) -> None:
        self.capable_of("divergence")
        if not loss.linear:
            pytest.skip("no general law gives the unit of a loss that is not linear; `worked` does")
        given = case(loss)
        slope = gradient(loss, given)
        expected = -given.measure * given.teacher.exp()
        assert torch.allclose(slope, expected, atol=1e-6), (
            "a linear divergence has the gradient -measure * exp(teacher), and this one has "
            f"{(slope / expected).mean():.3f} times it: 1.443 is bits, 1/C a mean over the columns"
        )

    def test_it_is_zero_where_the_student_is_the_teacher(self, loss: Loss) -> None:
        self.capable_of("divergence")
        given = case(loss)
        found = loss(given.teacher, given.teacher, given.measure)
        assert found.abs().max() < TOLERANCE, f"{found.tolist()}: expected 0 at every position"

    def test_it_is_above_zero_elsewhere(self, loss: Loss) -> None:
        self.capable_of("divergence")
        found = case(loss).of(loss)
        assert (found > 0).all(), f"{found.tolist()}: look at the sign"

    def test_a_column_counts_as_often_as_its_measure(self, loss: Loss) -> None:
        given = case(loss)
        more = torch.rand_like(given.measure)
        parts = given.of(loss) + loss(given.student, given.teacher, more)
        whole = loss(given.student, given.teacher, given.measure + more)
        assert torch.allclose(parts, whole, atol=TOLERANCE), (
            "the loss is a sum of measure * term over the columns: it must not ignore `measure`, "
            "take a mean, or make the columns sum to one"
        )
        nothing = loss(given.student, given.teacher, torch.zeros_like(given.measure))
        assert nothing.abs().max() < TOLERANCE, "columns of measure 0 must count for nothing"

    def test_it_is_a_sum_over_the_columns_that_it_is_given(self, loss: Loss) -> None:
        given = case(loss)
        if given.student.shape[1] == 1:
            pytest.skip("it is given one column")
        parts = [given.changed(lambda part: part[:, :3]), given.changed(lambda part: part[:, 3:])]
        found = sum((part.of(loss) for part in parts), torch.zeros(N, dtype=torch.float64))
        assert torch.allclose(found, given.of(loss), atol=TOLERANCE), (
            "the loss of all columns is not that of three of them and that of the others together: "
            "look for softmax, log_softmax or a division by a sum over the columns; `train.tail` "
            "renormalises where a user wants it"
        )

    def test_no_term_is_cut_off(self, loss: Loss) -> None:
        far = case(loss, scale=6.0)
        slope = gradient(loss, far)
        assert bool((slope != 0).all()), (
            "the gradient is 0 at log-probabilities down to "
            f"{far.student.min().item():.0f}: look for clamp and for terms that are left out"
        )

    def test_every_column_counts_and_their_order_does_not(self, loss: Loss) -> None:
        given = case(loss)
        turned = given.changed(lambda part: part.flip(1)).of(loss)
        assert torch.allclose(turned, given.of(loss), atol=TOLERANCE), (
            "another order of the columns gives another loss: look at what treats a column by its "
            "place"
        )
        slope = gradient(loss, given)
        assert bool((slope.abs().sum(dim=0) > 0).all()), "a column has no influence on the loss"

    def test_a_position_does_not_depend_on_the_others(self, loss: Loss) -> None:
        given = case(loss)
        together = given.of(loss)
        for row in range(N):
            alone = given.changed(lambda part, at=row: part[at : at + 1]).of(loss)  # type: ignore[misc]
            assert torch.allclose(alone, together[row : row + 1], atol=TOLERANCE), (
                f"position {row} alone gives {alone.item()}, among others {together[row].item()}: "
                "look for a sum, a mean or a softmax over dim 0"
            )

    def test_its_gradient_is_that_of_its_value(self, loss: Loss) -> None:
        given = case(loss)
        student = given.student.clone().requires_grad_()
        value = loss(student, given.teacher, given.measure)
        assert value.requires_grad, "no gradient comes back: look for detach, item or no_grad"
        assert torch.autograd.gradcheck(
            lambda moved: loss(moved, given.teacher, given.measure),
            (student,),
            raise_exception=False,
        ), "the gradient is not the slope of the value: look for detach and for rounding"

    def test_linear_is_true_of_it(self, loss: Loss) -> None:
        if not loss.linear:
            pytest.skip("it does not claim to be linear")
        given, other = case(loss), case(loss, seed=1)
        middle = loss((given.student + other.student) / 2, given.teacher, given.measure)
        ends = given.of(loss) + loss(other.student, given.teacher, given.measure)
        assert torch.allclose(middle, ends / 2, atol=TOLERANCE), (
            "`linear` promises that the loss is linear in the student's log-probabilities; a "
            "backend may then train on its weights alone. Set it to False"
        )

    def test_it_leaves_its_input_as_it_was(self, loss: Loss) -> None:
        given = case(loss)
        before = given.changed(torch.clone)
        given.of(loss)
        for name, value in vars(given).items():
            assert torch.equal(value, getattr(before, name)), (
                f"`{name}` was changed: look for operations in place, such as sub_ or +="
            )

    def test_it_gives_the_same_again(self, loss: Loss) -> None:
        given = case(loss)
        state = torch.get_rng_state()
        assert torch.equal(given.of(loss), given.of(loss)), "a loss is a pure function"
        assert torch.equal(state, torch.get_rng_state()), "it draws random numbers"

    def test_it_stays_finite_where_hardly_any_probability_is(self, loss: Loss) -> None:
        far = torch.full((2, 1), -100.0)
        near = torch.tensor([[-1e-6], [-1e-6]])
        rows = (far, near, far) if loss.targets == "teacher" else (far,)
        student = torch.cat(rows, dim=1).requires_grad_()
        teacher = torch.cat([near, far, far], dim=1) if len(rows) > 1 else torch.zeros(2, 1)
        found = loss(student, teacher, torch.ones_like(teacher))
        (slope,) = torch.autograd.grad(found.sum(), student)
        assert bool(torch.cat([found, slope.flatten()]).isfinite().all()), (
            f"{found.tolist()} at log-probabilities of -100: stay in the logarithm, by logaddexp "
            "or logsumexp, and do not divide by a probability"
        )

    def test_it_works_with_every_treatment_of_the_tail(self, loss: Loss) -> None:
        for tail in get_args(Tail):
            whole = case(loss)
            kept = whole.changed(lambda part: part[:, : V - 2])
            objective = TailedLoss(loss, tail)
            columns = LossSupport(torch.zeros_like(kept.teacher).long(), kept.teacher, kept.measure)
            found = objective.nats(kept.student, columns)
            assert found.shape == (N,), f"train.tail = {tail}: {tuple(found.shape)}"
            assert bool(found.isfinite().all()), f"train.tail = {tail}: {found.tolist()}"
            if self.divergence and tail in ("bucket", "renormalize") and objective.asks_teacher:
                assert bool((found > 0).all()), f"train.tail = {tail}: {found.tolist()}"

    def test_a_student_that_follows_it_becomes_the_teacher(self, loss: Loss) -> None:
        self.capable_of("divergence")
        given = case(loss)
        logits = torch.zeros(N, V, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(300):
            optimizer.zero_grad()
            student = logits.log_softmax(dim=1)[:, : given.teacher.shape[1]]
            loss(student, given.teacher, given.measure).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        student = logits.log_softmax(dim=1)[:, : given.teacher.shape[1]]
        away = (given.teacher.exp() * (given.teacher - student)).sum(dim=1).max().item()
        assert away < 0.05, (
            f"after 300 steps the student is {away:.3f} nats from the teacher: look at the sign "
            "and at the gradient"
        )


def case(loss: Loss, n: int = N, seed: int = 0, scale: float = 1.0) -> Case:
    """Made-up distributions over the whole vocabulary, or of the response token alone.

    With a greater `scale` they are sharper.
    """
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        (scale * torch.randn(n, V, generator=generator, dtype=torch.float64)).log_softmax(dim=1)
        for _ in range(2)
    )
    if loss.targets == "response":
        student, teacher = student[:, :1], torch.zeros(n, 1, dtype=torch.float64)
    return Case(student, teacher, torch.ones_like(teacher))


def gradient(loss: Loss, given: Case) -> Tensor:
    """Of the sum of the positions' losses, by the student's log-probabilities."""
    student = given.student.clone().requires_grad_()
    value = loss(student, given.teacher, given.measure).sum()
    (found,) = torch.autograd.grad(value, student)
    return found
