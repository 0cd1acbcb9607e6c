"""Training on Tinker: the same gradient by every route, and the same bake as on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fake_tinker import examples, material, opened, serving, torch_twin
from torch import Tensor

from promptbake.distill.held_out_kl import HeldOutKL, gap_closed
from promptbake.distill.loop import steps
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.types import Checkpoint, Datums, Example, Tail
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_losses.divergences import ForwardKL, ReverseKL
from promptbake_tinker.backend import TinkerBackend
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.settings import Settings
from promptbake_tinker.trainer import TinkerTrainer
from promptbake_torch.adapters import load_adapter
from promptbake_torch.lora import LoraSettings, LoraTrainer

PROPORTIONAL = 1e6  # an eps so large that an AdamW step is proportional to the gradient
RANK = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerLoopback]:
    with serving(tmp_path_factory.mktemp("training")) as server:
        yield server


def trainer(model: TinkerModel, datums: Datums = "one") -> TinkerTrainer:
    return TinkerTrainer(model, "tinker", RANK, 1, datums)


def gradient(
    server: TinkerLoopback, folder: Path, objective: TailedLoss, datums: Datums
) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradient of one batch, as far as the first step shows it."""
    with opened(server, eps=PROPORTIONAL, train_unembed=False) as model:
        before = weights(model, trainer(model, datums), folder / "before")
        student = trainer(model, datums)
        loss = student.forward_backward(examples(model), objective)
        student.optim_step(PROPORTIONAL)
        after = weights(model, student, folder / "after")
        return loss.result(), {name: before[name] - after[name] for name in before}


def weights(model: TinkerModel, student: TinkerTrainer, folder: Path) -> dict[str, Tensor]:
    """The LoRA as it stands, brought home."""
    folder.mkdir(parents=True)
    checkpoint = student.save_adapter(folder)
    backend, home = TinkerBackend(Settings()), folder / "peft"
    home.mkdir()
    backend.export(model, checkpoint, home)
    return safetensors.torch.load_file(home / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("loss", "tail"),
    [(ForwardKL(), "sampled"), (ForwardKL(), "bucket"), (ReverseKL(), "drop")],
    ids=["linear", "bucket", "reverse"],
)
def test_every_route_has_the_gradient_that_autograd_has(
    server: TinkerLoopback, tmp_path: Path, loss: Any, tail: Tail
) -> None:
    objective = TailedLoss(loss, tail)
    twin = torch_twin()
    local = LoraTrainer(twin, "torch", LoraSettings(alpha=32, max_grad_norm=1e9), RANK, seed=1)
    expected = local.forward_backward(examples(twin), objective).result()
    gradients = {
        name: parameter.grad
        for name, parameter in twin.engine.module.named_parameters()
        if parameter.grad is not None
    }
    scale = max(float(found.abs().max()) for found in gradients.values())
    assert scale > 0
    for datums_ in ("one", "per_token"):
        found, moved = gradient(server, tmp_path / datums_, objective, datums_)
        assert found == pytest.approx(expected, rel=1e-4)
        assert len(moved) == len(gradients)
        for name, expected_gradient in gradients.items():
            (key,) = (
                key for key in moved if key.replace(".weight", "") in name.replace(".default", "")
            )
            torch.testing.assert_close(moved[key], expected_gradient, rtol=2e-3, atol=2e-4 * scale)


def test_a_bake_through_tinker_is_the_bake_of_this_machine(
    server: TinkerLoopback, tmp_path: Path
) -> None:
    """The same data, seed and loss: the same loss at every step, the same held-out KL."""
    objective = TailedLoss(ForwardKL(), "sampled")
    twin = torch_twin()
    found = material(twin)
    spans = [datum.teacher for datum in found.training]
    targets = dict(twin.top_k(spans, k=20, draws=4, seeds=range(len(spans))))
    batch = [
        Example(datum, objective.support(datum, targets[index]))
        for index, datum in enumerate(found.training)
    ]
    schedule = Schedule(len(batch), batch_size=4, epochs=3, lr=5e-3, seed=0)
    yardstick = HeldOutKL(twin, found.held_out)
    before = yardstick.unprompted(twin)

    local = LoraTrainer(twin, "torch", LoraSettings(alpha=32, max_grad_norm=1.0), RANK, seed=1)
    here = [step.metrics.loss for step in steps(local, batch, objective, schedule)]
    same = {"betas": (0.9, 0.99), "eps": 1e-8, "max_grad_norm": 1.0, "train_unembed": False}
    with opened(server, **same) as model:
        remote = trainer(model)
        there = [step.metrics.loss for step in steps(remote, batch, objective, schedule)]
        weights(model, remote, tmp_path / "baked")
    assert len(here) == schedule.steps == 30
    assert there == pytest.approx(here, rel=1e-4)

    baked_here = yardstick.unprompted(local.snapshot().result())
    home = Checkpoint("torch", "tiny", "tiny", str(tmp_path / "baked" / "peft"))
    baked_there = yardstick.unprompted(load_adapter(twin, home))
    assert gap_closed(before, baked_here) > 0.5
    assert baked_there.per_token == pytest.approx(baked_here.per_token, rel=0.01)


def test_a_state_is_never_overwritten_while_it_is_the_last_one_known(
    server: TinkerLoopback, tmp_path: Path
) -> None:
    with opened(server) as model:
        student = trainer(model)
        addresses = [
            json.loads(student.save_state(step).result()["tinker.json"])["state"]
            for step in range(4, 29, 4)
        ]
    for window in zip(addresses, addresses[1:], addresses[2:], strict=False):
        assert len(set(window)) == 3
    assert len(set(addresses)) == 4
