"""Training on Tinker: the same gradient by every route, and the same bake as on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from fake_openai import new_twin
from fake_tinker import examples, material, opened, serving
from torch import Tensor

from promptbake.distill.batches import StoredBatches
from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.distill.loop import steps
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.errors import BakeError
from promptbake.evaluate.statistics import gap_closed
from promptbake.testing.tiny import save_tiny
from promptbake.types import Checkpoint, Example, Tail
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_losses.divergences import ForwardKL, ReverseKL
from promptbake_tinker.backend import TinkerBackend
from promptbake_tinker.datum_layout import DatumLayout
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.settings import Settings
from promptbake_tinker.trainer import TinkerTrainer
from promptbake_torch.adapters import load_adapter
from promptbake_torch.lora import LoraSettings, LoraTrainer

PROPORTIONAL = 1e6  # an eps so large that an AdamW step is proportional to the gradient
RANK = 8


def trainer(model: TinkerModel, start: Checkpoint | None = None) -> TinkerTrainer:
    return TinkerTrainer(model, "tinker", RANK, 1, start)


def gradient(
    server: TinkerLoopback, folder: Path, objective: TailedLoss, layout: DatumLayout
) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradient of one batch, as far as the first step shows it."""
    settings = {"eps": PROPORTIONAL, "train_unembed": False, "datum_layout": layout}
    with opened(server, **settings) as model:
        before = weights(model, trainer(model), folder / "before")
        student = trainer(model)
        loss = student.forward_backward(examples(model), objective)
        student.optim_step(PROPORTIONAL)
        after = weights(model, student, folder / "after")
        return loss.result(), {name: before[name] - after[name] for name in before}


def weights(model: TinkerModel, student: TinkerTrainer, folder: Path) -> dict[str, Tensor]:
    """The LoRA as it stands, downloaded."""
    folder.mkdir(parents=True)
    checkpoint = student.save_adapter(folder)
    backend, exported = TinkerBackend(Settings()), folder / "peft"
    exported.mkdir()
    backend.export(model, checkpoint, exported)
    return safetensors.torch.load_file(exported / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("loss", "tail"),
    [(ForwardKL(), "sampled"), (ForwardKL(), "bucket"), (ReverseKL(), "drop")],
    ids=["linear", "bucket", "reverse"],
)
def test_every_route_has_the_gradient_that_autograd_has(
    server: TinkerLoopback, tmp_path: Path, loss: Any, tail: Tail
) -> None:
    objective = TailedLoss(loss, tail)
    twin = new_twin()
    local = LoraTrainer(twin, "torch", LoraSettings(alpha=32, max_grad_norm=1e9), RANK, seed=1)
    expected = local.forward_backward(examples(twin), objective).result()
    gradients = {
        name: parameter.grad
        for name, parameter in twin.engine.module.named_parameters()
        if parameter.grad is not None
    }
    scale = max(float(each.abs().max()) for each in gradients.values())
    assert scale > 0
    layouts: tuple[DatumLayout, ...] = ("wide", "per_token")
    for layout in layouts:
        remote, moved = gradient(server, tmp_path / layout, objective, layout)
        assert remote == pytest.approx(expected, rel=1e-4)
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
    twin = new_twin()
    data = material(twin)
    spans = [datum.teacher for datum in data.training]
    scores = dict(twin.top_k(spans, k=20, draws=4, seeds=range(len(spans))))
    training = [
        Example(datum, objective.support(datum, scores[index]))
        for index, datum in enumerate(data.training)
    ]
    schedule = Schedule(len(training), batch_size=4, epochs=3, lr=5e-3, seed=0)
    batches = StoredBatches(training, schedule)
    held_out_kl = HeldOutKL(twin, data.held_out)
    before = held_out_kl.unprompted(twin)

    local = LoraTrainer(twin, "torch", LoraSettings(alpha=32, max_grad_norm=1.0), RANK, seed=1)
    here = [step.metrics.loss for step in steps(local, batches, objective, schedule)]
    same = {"betas": (0.9, 0.99), "eps": 1e-8, "max_grad_norm": 1.0, "train_unembed": False}
    with opened(server, **same) as model:
        remote = trainer(model)
        there = [step.metrics.loss for step in steps(remote, batches, objective, schedule)]
        weights(model, remote, tmp_path / "baked")
    assert len(here) == schedule.steps == 30
    assert there == pytest.approx(here, rel=1e-4)

    baked_here = held_out_kl.unprompted(local.snapshot().result())
    exported = Checkpoint("torch", "tiny", "tiny", str(tmp_path / "baked" / "peft"))
    baked_there = held_out_kl.unprompted(load_adapter(twin, exported))
    assert gap_closed(before, baked_here) > 0.5
    assert baked_there.per_token == pytest.approx(baked_here.per_token, rel=0.01)


def test_a_lora_on_tied_embeddings_is_not_exported(tmp_path: Path) -> None:
    """peft would leave a part of it out; without the unembedding it is exported."""
    tied = transformers.AutoModelForCausalLM.from_pretrained(
        save_tiny(tmp_path / "model"), tie_word_embeddings=True
    )
    tied.save_pretrained(tmp_path / "model")
    with serving(tmp_path) as server:
        with opened(server) as model:
            student = trainer(model)
            (line,) = student.preflight(k=5, draws=0)
            assert "tied embeddings" in line
            with pytest.raises(
                BakeError, match=r"set options\.backends\.tinker\.train_unembed=fal"
            ):
                weights(model, student, tmp_path / "refused")
        options = {"train_unembed": False, "train_mlp": False, "lora_seed": 3}
        with opened(server, **options) as model:
            student = trainer(model)
            assert student.preflight(k=5, draws=0) == []
            exported = weights(model, student, tmp_path / "exported")
    assert {name.split(".")[-3] for name in exported} == {"q_proj", "k_proj", "v_proj", "o_proj"}


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"details": {"state": "tinker://state", "rank": "4"}}, "has rank 4.*set train.rank=4"),
        ({"details": {"state": "tinker://state"}}, "no record of its training state and rank"),
        ({"details": {"rank": "8"}}, "no record of its training state and rank"),
        ({"base_model": "other", "base_digest": "tinker:other"}, "was baked into other"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    server: TinkerLoopback, changes: dict[str, Any], says: str
) -> None:
    with opened(server) as model:
        details = {"state": "tinker://state", "rank": str(RANK)}
        fit = Checkpoint("tinker", model.name, model.digest, "tinker://baked", details)
        trainer(model, fit)
        with pytest.raises(BakeError, match=says):
            trainer(model, replace(fit, **changes))
