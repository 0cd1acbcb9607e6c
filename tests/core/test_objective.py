"""The maths of the loss: identities, a case by hand, bounds, unbiasedness, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from promptbake.distill.objective import TailedLoss, full_kl, rest, tail_importance_weights
from promptbake.types import Datum, LossSupport, Tail, TeacherLogprobs
from promptbake_losses.divergences import JSD, CrossEntropy, ForwardKL, ReverseKL

DIVERGENCES = [ForwardKL(), ReverseKL(), JSD(0.5), JSD(0.1)]
DATUM = Datum("c", "q", student_ids=(7, 1, 2), teacher_ids=(8, 9, 1, 2), n_response=2)


def distributions(seed: int, rows: int, vocabulary: int, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=1)


def scores_of(teacher: Tensor, k: int, draws: int = 0, seed: int = 0) -> TeacherLogprobs:
    """The top K of full distributions, and draws from the others in proportion to their mass."""
    top = teacher.topk(k, dim=1)
    drawn = torch.zeros(len(teacher), 0, dtype=torch.long)
    if draws:
        others = teacher.exp().scatter(1, top.indices, 0.0)
        drawn = others.multinomial(
            draws, replacement=True, generator=torch.Generator().manual_seed(seed)
        )
    drawn_logprobs = teacher.gather(1, drawn)
    importance_weights = tail_importance_weights(top.values, drawn_logprobs)
    return TeacherLogprobs(top.indices, top.values, drawn, drawn_logprobs, importance_weights)


def loss_of(
    objective: TailedLoss, teacher: Tensor, student: Tensor, scores: TeacherLogprobs
) -> Tensor:
    support = objective.support(DATUM, scores)
    return objective.nats(student.gather(1, support.ids), support)


shapes = {
    "seed": st.integers(0, 10_000),
    "vocabulary": st.integers(3, 40),
    "spread": st.floats(0.1, 6.0),
    "share": st.floats(0.05, 0.95),
}


@pytest.mark.parametrize("loss", DIVERGENCES, ids=repr)
@pytest.mark.parametrize("tail", ["sampled", "bucket", "renormalize"])
def test_a_divergence_of_a_distribution_from_itself_is_zero(loss: ForwardKL, tail: Tail) -> None:
    teacher = distributions(0, 2, 30)
    nats = loss_of(TailedLoss(loss, tail), teacher, teacher, scores_of(teacher, 5, draws=4))
    torch.testing.assert_close(nats, torch.zeros_like(nats), atol=1e-12, rtol=0)


def test_a_case_of_three_tokens_by_hand() -> None:
    teacher = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    student = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log()
    top = scores_of(teacher, 2)
    exact = 0.5 * math.log(2) + 0.3 * math.log(0.3 / 0.25)
    expected = {
        "drop": exact,
        "bucket": exact + 0.2 * math.log(0.2 / 0.5),
        "renormalize": 5 / 8 * math.log((5 / 8) / 0.5) + 3 / 8 * math.log((3 / 8) / 0.5),
    }
    for tail, nats in expected.items():
        loss = loss_of(TailedLoss(ForwardKL(), tail), teacher, student, top)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(nats, abs=1e-12), tail
    # One token is left, so a draw of the tail is certain, and the sampled loss is the full one.
    drawn = scores_of(teacher, 2, draws=3)
    sampled = loss_of(TailedLoss(ForwardKL(), "sampled"), teacher, student, drawn)
    assert sampled.item() == pytest.approx(full_kl(teacher, student).item(), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(**shapes)
def test_the_bucket_is_between_zero_and_the_full_kl(
    seed: int, vocabulary: int, spread: float, share: float
) -> None:
    k = max(1, int(share * vocabulary))
    teacher = distributions(seed, 2, vocabulary, spread)
    student = distributions(seed + 1, 2, vocabulary, spread)
    nats = loss_of(TailedLoss(ForwardKL(), "bucket"), teacher, student, scores_of(teacher, k))
    assert bool((nats >= -1e-9).all())
    assert bool((nats <= full_kl(teacher, student) + 1e-9).all())


@settings(max_examples=50, deadline=None)
@given(**shapes)
def test_the_bucket_grows_with_k_up_to_the_full_kl(
    seed: int, vocabulary: int, spread: float, share: float
) -> None:
    teacher = distributions(seed, 1, vocabulary, spread)
    student = distributions(seed + 1, 1, vocabulary, spread)
    nats = [
        loss_of(TailedLoss(ForwardKL(), "bucket"), teacher, student, scores_of(teacher, k)).item()
        for k in range(1, vocabulary + 1)
    ]
    assert nats == pytest.approx(sorted(nats), abs=1e-9)
    assert nats[-1] == pytest.approx(full_kl(teacher, student).item(), abs=1e-9)


@pytest.mark.parametrize("loss", DIVERGENCES, ids=repr)
def test_the_mean_of_the_sampled_tail_is_the_full_divergence(loss: ForwardKL) -> None:
    teacher, student = distributions(3, 1, 30), distributions(4, 1, 30)
    full = loss(student, teacher, torch.ones_like(teacher))
    scores = scores_of(teacher.expand(1, -1), 5, draws=200_000)
    nats = loss_of(TailedLoss(loss, "sampled"), teacher, student, scores)
    torch.testing.assert_close(nats, full, rtol=0.01, atol=1e-3)


def test_the_mean_gradient_of_the_sampled_tail_is_the_full_gradient() -> None:
    teacher, vocabulary, n = distributions(5, 1, 24), 24, 4_000
    logits = distributions(6, 1, vocabulary).clone().requires_grad_()
    (full,) = torch.autograd.grad(full_kl(teacher, logits.log_softmax(1)).sum(), logits)
    # n independent estimates of 4 draws each, as n rows of one batch.
    scores = scores_of(teacher.expand(n, -1), 5, draws=4)
    objective = TailedLoss(ForwardKL(), "sampled")
    support = objective.support(DATUM, scores)
    student = logits.log_softmax(1).expand(n, -1).gather(1, support.ids)
    (sampled,) = torch.autograd.grad(objective.nats(student, support).mean(), logits)
    assert (sampled - full).norm() < 0.03 * full.norm()
    # The same number of steps without the tail is another gradient altogether.
    dropped = TailedLoss(ForwardKL(), "drop")
    top = dropped.support(DATUM, scores)
    student = logits.log_softmax(1).expand(n, -1).gather(1, top.ids)
    (biased,) = torch.autograd.grad(dropped.nats(student, top).mean(), logits)
    assert (biased - full).norm() > 0.1 * full.norm()


@pytest.mark.parametrize("loss", [*DIVERGENCES, CrossEntropy()], ids=repr)
@pytest.mark.parametrize("tail", ["sampled", "bucket", "renormalize", "drop"])
def test_gradients_agree_with_finite_differences(loss: ForwardKL, tail: Tail) -> None:
    teacher = distributions(7, 2, 12)
    objective = TailedLoss(loss, tail)
    support = objective.support(DATUM, scores_of(teacher, 4, draws=3))

    def nats(logits: Tensor) -> Tensor:
        return objective.nats(logits.log_softmax(1).gather(1, support.ids), support)

    logits = distributions(8, 2, 12).clone().requires_grad_()
    assert torch.autograd.gradcheck(nats, logits)


@pytest.mark.parametrize("tail", ["sampled", "drop"])
@pytest.mark.parametrize("loss", [ForwardKL(), CrossEntropy()], ids=repr)
def test_a_linear_loss_is_a_weighted_cross_entropy(loss: ForwardKL, tail: Tail) -> None:
    teacher, student = distributions(9, 2, 12), distributions(10, 2, 12)
    objective = TailedLoss(loss, tail)
    support = objective.support(DATUM, scores_of(teacher, 4, draws=3))
    weights = objective.weights(support)
    assert weights is not None
    one = student.gather(1, support.ids)
    other = one + 0.1 * torch.randn(one.shape, dtype=one.dtype)
    change = objective.nats(other, support) - objective.nats(one, support)
    torch.testing.assert_close(change, -(weights * (other - one)).sum(dim=1))


def test_a_nonlinear_loss_has_no_weights() -> None:
    scores = scores_of(distributions(9, 2, 12), 4, draws=3)
    nonlinear = [
        TailedLoss(ForwardKL(), "bucket"),
        TailedLoss(ForwardKL(), "renormalize"),
        TailedLoss(ReverseKL(), "sampled"),
    ]
    for objective in nonlinear:
        assert objective.weights(objective.support(DATUM, scores)) is None


def test_the_weights_of_the_sampled_tail_sum_to_one() -> None:
    teacher = distributions(11, 2, 50)
    objective = TailedLoss(ForwardKL(), "sampled")
    weights = objective.weights(objective.support(DATUM, scores_of(teacher, 5, draws=4)))
    assert weights is not None
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_cross_entropy_looks_at_the_response_alone() -> None:
    objective = TailedLoss(CrossEntropy(), "sampled")
    assert not objective.requires_teacher
    assert objective.draws(4) == 0
    support = objective.support(DATUM, None)
    assert support.ids.tolist() == [[1], [2]]
    student = torch.tensor([[0.25], [0.5]]).log()
    torch.testing.assert_close(
        objective.nats(student, support), torch.tensor([math.log(4), math.log(2)])
    )


def test_a_loss_that_asks_the_teacher_refuses_to_go_without() -> None:
    with pytest.raises(ValueError, match="needs the teacher"):
        TailedLoss(ForwardKL(), "drop").support(DATUM, None)


def test_rest_is_finite_where_nothing_is_left() -> None:
    whole = distributions(12, 2, 8).float()
    left = rest(whole)
    assert bool(left.isfinite().all())
    assert bool((left.exp() < 1e-5).all())
    support = LossSupport(torch.zeros(2, 8, dtype=torch.long), whole, torch.ones(2, 8))
    nats = TailedLoss(ForwardKL(), "bucket").nats(whole, support)
    torch.testing.assert_close(nats, torch.zeros(2), atol=1e-4, rtol=0)
