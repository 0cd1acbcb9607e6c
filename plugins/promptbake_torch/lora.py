"""The core's Trainer: a LoRA by peft, trained with AdamW."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from torch import Tensor

from promptbake import (
    BakeError,
    Checkpoint,
    Example,
    ImmediateResult,
    Model,
    Objective,
    Pending,
    TrainingState,
    write_atomic,
    write_json,
)
from promptbake_torch import forward
from promptbake_torch.engine import Engine
from promptbake_torch.model import TorchModel

WEIGHTS = "adapter_model.safetensors"
OPTIMIZER = "optimizer.pt"
BETAS = (0.9, 0.99)
# What peft raises for a folder that holds no adapter, or one that does not fit.
UNUSABLE = (OSError, ValueError, KeyError, RuntimeError, UserWarning, safetensors.SafetensorError)


@dataclass(frozen=True)
class LoraSettings:
    """What the LoRA and its optimiser take beside the rank and the learning rate."""

    alpha: float | None = None
    frozen_share: float = 0.0
    max_grad_norm: float = 1.0


class LoraTrainer:
    """A fresh LoRA on all linear layers of the upper part of the model."""

    steps_in_flight = 1

    def __init__(
        self,
        base: TorchModel,
        backend: str,
        settings: LoraSettings,
        rank: int,
        seed: int,
        start: Checkpoint | None = None,
    ) -> None:
        self._engine: Engine = base.engine
        self._backend = backend
        self._settings = settings
        self._adapter = self._engine.next_adapter()
        _attach(self._engine, self._adapter, settings, rank, seed)
        if start is not None:
            self._start_from(start)
        self._model = TorchModel(self._engine, self._adapter, base.sample_batch)
        self._parameters = [
            parameter
            for name, parameter in self._engine.module.named_parameters()
            if f".{self._adapter}." in name
        ]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=0.0, betas=BETAS, weight_decay=0.0)

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Nothing is paid for here."""
        return ()

    def snapshot(self) -> Pending[Model]:
        """The student: the same weights that go on to be trained."""
        return ImmediateResult(self._model)

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Add the gradient of the mean over the batch's response tokens."""
        rows = self._engine.pad([example.datum.student_ids for example in batch])
        counts = [example.datum.n_response for example in batch]
        with self._engine.using(self._adapter) as module:
            cache = forward.prefix_cache(module, rows.prefix, self._engine.device)
            cache = forward.repeated(cache, len(batch), keep=False)
            logits = forward.response_logits(module, rows, cache, max(counts))
        losses = [
            objective.nats(_gathered(row[-count:], example), example.support).sum()
            for row, count, example in zip(logits, counts, batch, strict=True)
        ]
        loss = torch.stack(losses).sum() / sum(counts)
        loss.backward()  # type: ignore[no-untyped-call]
        return ImmediateResult(loss.item())

    def optim_step(self, lr: float) -> Pending[None]:
        """Clip the gradient, take one AdamW step."""
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._engine.forget(self._adapter)
        return ImmediateResult(None)

    def save_state(self, step: int) -> Pending[TrainingState]:
        """The adapter's weights and the optimiser's moments."""
        moments = BytesIO()
        torch.save(self._optimizer.state_dict(), moments)
        weights = safetensors.torch.save(self._state())
        return ImmediateResult({WEIGHTS: weights, OPTIMIZER: moments.getvalue()})

    def load_state(self, folder: Path) -> None:
        """Go on from the files of a state."""
        state = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        peft.set_peft_model_state_dict(self._engine.module, state, adapter_name=self._adapter)
        self._optimizer.load_state_dict(
            torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        )
        self._engine.forget(self._adapter)

    def save_adapter(self, folder: Path) -> Checkpoint:
        """A PEFT folder, the same bytes for the same weights."""
        metadata = {"format": "pt"}
        write_atomic(folder / WEIGHTS, safetensors.torch.save(self._state(), metadata))
        config = self._engine.module.peft_config[self._adapter].to_dict()
        config |= {
            "base_model_name_or_path": self._engine.name,
            "inference_mode": True,
            "target_modules": sorted(config["target_modules"]),
        }
        plain = json.loads(json.dumps(config, default=_plain))
        write_json(folder / "adapter_config.json", dict(sorted(plain.items())))
        # The address is left empty: the weights are in the folder, wherever that is moved to.
        return Checkpoint(self._backend, self._engine.name, self._engine.digest, uri="")

    def _start_from(self, checkpoint: Checkpoint) -> None:
        """Take an earlier bake's weights; its layers and its rank must be this one's."""
        weights = _read_weights(checkpoint)
        mine = {name: tensor.shape for name, tensor in self._state().items()}
        theirs = {name: tensor.shape for name, tensor in weights.items()}
        if mine != theirs:
            raise BakeError(
                f"{checkpoint.uri}: its LoRA has other layers or another rank than this run's; "
                "bake with the train.rank and the options of the backend that it was baked with"
            )
        peft.set_peft_model_state_dict(self._engine.module, weights, adapter_name=self._adapter)

    def _state(self) -> dict[str, Tensor]:
        state = peft.get_peft_model_state_dict(
            self._engine.module, adapter_name=self._adapter, save_embedding_layers=False
        )
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def load_adapter(base: TorchModel, checkpoint: Checkpoint, strength: float = 1.0) -> TorchModel:
    """Put a saved adapter on the base model, scaled by `strength`.

    Raises:
        BakeError: The folder holds no adapter for this model.
    """
    engine = base.engine
    adapter = engine.next_adapter()
    try:
        with _missing_weights_are_an_error():
            if hasattr(engine.module, "load_adapter") and hasattr(engine.module, "peft_config"):
                engine.module.load_adapter(checkpoint.uri, adapter_name=adapter)
            else:
                engine.module = peft.PeftModel.from_pretrained(
                    engine.module, checkpoint.uri, adapter_name=adapter
                )
    except UNUSABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise BakeError(f"{checkpoint.uri}: is no adapter for {engine.name}: {reason}") from None
    engine.module.eval()
    if strength != 1:
        for layer in engine.module.modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer) and adapter in layer.scaling:
                layer.scaling[adapter] *= strength
    return TorchModel(engine, adapter, base.sample_batch)


def export_adapter(checkpoint: Checkpoint, folder: Path, strength: float) -> None:
    """Copy a saved adapter; at another strength than 1 with its B matrices scaled."""
    for file in Path(checkpoint.uri).iterdir():
        if file.name != WEIGHTS or strength == 1:
            shutil.copy2(file, folder)
    if strength != 1:
        weights = _read_weights(checkpoint)
        scaled = {n: w * strength if ".lora_B." in n else w for n, w in weights.items()}
        write_atomic(folder / WEIGHTS, safetensors.torch.save(scaled, {"format": "pt"}))


def _read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load((Path(checkpoint.uri) / WEIGHTS).read_bytes())
    except UNUSABLE as error:
        raise BakeError(f"{checkpoint.uri}: is no adapter: {error}") from None


def _attach(engine: Engine, adapter: str, settings: LoraSettings, rank: int, seed: int) -> None:
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=settings.alpha or rank,
        target_modules="all-linear",
        exclude_modules=_lower_layers(_plain_module(engine.module), settings.frozen_share),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(engine.module, "peft_config"):
            engine.module.add_adapter(adapter, config)
        else:
            engine.module = peft.get_peft_model(engine.module, config, adapter_name=adapter)
    engine.module.set_adapter(adapter)


def _lower_layers(module: Any, share: float) -> str | None:
    """A pattern for what is inside the lowest `share` of the layers; None for none of them."""
    n_layers = module.config.get_text_config().num_hidden_layers
    n_frozen = int(share * n_layers)
    if not n_frozen:
        return None
    stack = next(
        name
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == n_layers
    )
    return rf".*{re.escape(stack)}\.({'|'.join(map(str, range(n_frozen)))})\..*"


def _plain_module(module: Any) -> Any:
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def _gathered(logits: Tensor, example: Example) -> Tensor:
    """Log-probabilities [N, C] of the support, from logits [N, V]."""
    ids = example.support.ids.to(logits.device)
    return logits.gather(1, ids) - logits.logsumexp(dim=1, keepdim=True)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


@contextmanager
def _missing_weights_are_an_error() -> Iterator[None]:
    """peft only warns where a file lacks weights, and leaves them as they were before training."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
        yield
