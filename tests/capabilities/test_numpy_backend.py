"""A backend that computes in numpy bakes through the same stages, with torch's gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_bakes import PIRATE, job

import promptbake
from promptbake import Datum, Example, LossSupport


@pytest.mark.parametrize("tail", ["sampled", "bucket"])
def test_it_bakes(tail: str) -> None:
    given = job(
        "mock",
        data__provider="self",
        train__epochs=4,
        train__backend="bag_of_words",
        train__lr=1e-3,
        train__tail=tail,
    )
    promptbake.data(PIRATE, **given)
    promptbake.bake(PIRATE, **given)
    result = promptbake.verify(PIRATE, **given)
    assert (result.backend, result.kl.kind) == ("bag_of_words", "full")
    assert result.gap_closed > 0.7


def test_its_gradient_is_that_of_autograd() -> None:
    from promptbake_spikes.numpy_model import BagOfWords, BagOfWordsTrainer

    from promptbake.distill.objective import TailedLoss
    from promptbake_losses.divergences import ForwardKL

    trainer = BagOfWordsTrainer(rank=3, seed=1, start=None)
    trainer.parameters[1] = np.random.default_rng(2).normal(size=trainer.parameters[1].shape) / 9
    teacher = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    support = LossSupport(
        torch.arange(20).view(4, 5) * 5, teacher[:, :5], torch.rand(4, 5), weight=0.5
    )
    datum = Datum("c", "q", (65, 66, 67, 68, 69, 70), (80, 67, 68, 69, 70), 4)
    objective = TailedLoss(ForwardKL(), "bucket")
    loss = trainer.forward_backward([Example(datum, support)], objective).result()

    first, second = (torch.tensor(part, requires_grad=True) for part in trainer.parameters)
    model = BagOfWords()
    hidden = torch.from_numpy(model.hidden(datum.student_ids, 4))
    base = torch.from_numpy(model.scores(model.hidden(datum.student_ids, 4)))
    scores = (base + hidden @ first @ second).log_softmax(dim=1)
    expected = objective.nats(scores.gather(1, support.ids), support).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for gradient, parameter in zip(trainer._gradients, (first, second), strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-3, atol=1e-6)
