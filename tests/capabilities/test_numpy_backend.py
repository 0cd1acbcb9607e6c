"""A backend that computes in numpy bakes through the same stages, with torch's gradients."""

from __future__ import annotations

import pytest
import torch
from small_bakes import PIRATE, job

import promptbake
from promptbake import Datum, Example, LossSupport
from promptbake.distill.objective import TailedLoss
from promptbake_losses.divergences import ForwardKL

pytestmark = pytest.mark.usefixtures("template")


@pytest.mark.parametrize("tail", ["sampled", "bucket"])
def test_it_bakes(tail: str) -> None:
    numpy = {"train__backend": "in_numpy", "train__lr": 0.03, "data__provider": "self"}
    given = job("mock", train__epochs=4, train__tail=tail, **numpy)
    promptbake.data(PIRATE, **given)
    promptbake.bake(PIRATE, **given)
    result = promptbake.verify(PIRATE, **given)
    assert (result.backend, result.kl.kind) == ("bag", "full")
    assert result.gap_closed > 0.7


def test_its_gradient_is_that_of_autograd() -> None:
    from promptbake_bag import UP, ByteModel, ByteTrainer
    from promptbake_spikes.numpy_backend import NumpyTrainer

    teacher = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    ids, weights = torch.arange(20).view(4, 5) * 5, torch.rand(4, 5)
    support = LossSupport(ids, teacher[:, :5], weights, weight=0.5)
    datum = Datum("c", "q", (65, 66, 67, 68, 69, 70), (80, 67, 68, 69, 70), 4)
    trainers = [kind(ByteModel(), rank=3, seed=1) for kind in (NumpyTrainer, ByteTrainer)]
    losses = []
    for trainer in trainers:
        torch.nn.init.normal_(trainer.weights[UP].detach(), generator=torch.manual_seed(2))
        batch, objective = [Example(datum, support)], TailedLoss(ForwardKL(), "bucket")
        losses.append(trainer.forward_backward(batch, objective).result())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, weight in trainers[0].weights.items():
        assert weight.grad is not None
        torch.testing.assert_close(
            weight.grad, trainers[1].weights[name].grad, rtol=1e-3, atol=1e-5
        )
