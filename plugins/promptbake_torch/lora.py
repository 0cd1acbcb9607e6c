"""The core's Trainer: a LoRA of peft, trained with AdamW."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
from promptbake_torch.adapters import WEIGHTS, adapter_state, attach, read_adapter
from promptbake_torch.engine import Engine
from promptbake_torch.model import TorchModel
from promptbake_torch.support_logprobs import support_logprobs

OPTIMIZER = "optimizer.pt"
LOGIT_CELLS_ON_CPU = 10**7  # 40 MB of float32 logits in a pass; longer batches take several
LOGIT_CELLS_ON_GPU = 2**28
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class LoraSettings:
    """The settings of a LoRA and its optimizer, beside the rank and the learning rate.

    Attributes:
        alpha: The LoRA's; None for the rank.
        frozen_share: The share of the layers, from the bottom, that get no LoRA.
        max_grad_norm: What gradients are clipped to.
    """

    alpha: float | None = None
    frozen_share: float = 0.0
    max_grad_norm: float = 1.0


class LoraTrainer:
    """A LoRA on all linear layers of the upper part of the model: fresh, or from a checkpoint."""

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
        on_cpu = self._engine.device.type == "cpu"
        self.logit_cells = LOGIT_CELLS_ON_CPU if on_cpu else LOGIT_CELLS_ON_GPU  # in a pass
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
        """Nothing to check: nothing is paid for here."""
        return ()

    def snapshot(self) -> Pending[Model]:
        """The student: the very weights that are trained."""
        return ImmediateResult(self._model)

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Add the gradient of the mean over the batch's response tokens."""
        rows = [example.datum.student_ids for example in batch]
        n_tokens = sum(example.datum.n_response for example in batch)
        vocabulary = self._engine.module.config.get_text_config().vocab_size
        longest = max(example.datum.n_response for example in batch)
        parts = self._engine.batches(rows, max(1, self.logit_cells // (longest * vocabulary)))
        return ImmediateResult(
            sum(self._backward(batch[part], objective, n_tokens) for part in parts)
        )

    def _backward(self, batch: Sequence[Example], objective: Objective, n_tokens: int) -> float:
        """Add the gradient of these examples' loss over `n_tokens`; returns that loss."""
        spans = [example.datum.student for example in batch]
        logits, places = self._engine.training_logits(self._adapter, spans)
        ids = [example.support.ids for example in batch]
        logprobs = support_logprobs(logits, _padded_ids(ids, places, len(logits)).to(logits.device))
        losses = [
            objective.nats(logprobs[place, : example.support.ids.shape[1]], example.support).sum()
            for place, example in zip(places, batch, strict=True)
        ]
        loss = torch.stack(losses).sum() / n_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def optim_step(self, lr: float) -> Pending[None]:
        """Clip the gradient and take one AdamW step."""
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._engine.forget(self._adapter)
        return ImmediateResult(None)

    def save_state(self, step: int) -> Pending[TrainingState]:
        """The adapter's weights and the optimizer's moments."""
        moments = BytesIO()
        torch.save(self._optimizer.state_dict(), moments)
        weights = safetensors.torch.save(self._state())
        return ImmediateResult({WEIGHTS: weights, OPTIMIZER: moments.getvalue()})

    def load_state(self, folder: Path) -> None:
        """Resume from the files of a state."""
        try:
            state = safetensors.torch.load((folder / WEIGHTS).read_bytes())
            peft.set_peft_model_state_dict(self._engine.module, state, adapter_name=self._adapter)
            self._optimizer.load_state_dict(
                torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
            )
        except Exception as error:  # which a damaged file makes torch raise cannot be listed
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BakeError(
                f"{folder}: is a damaged training state ({reason}); delete that folder and run the "
                "same command: the bake begins anew"
            ) from None
        self._engine.forget(self._adapter)

    def save_adapter(self, folder: Path) -> Checkpoint:
        """A PEFT folder, the same bytes for the same weights."""
        metadata = {"format": "pt"}
        write_atomic(folder / WEIGHTS, safetensors.torch.save(self._state(), metadata))
        config = self._engine.module.peft_config[self._adapter].to_dict()
        config |= {
            "base_model_name_or_path": self._engine.source,
            "inference_mode": True,
            "target_modules": sorted(config["target_modules"]),
        }
        jsonable = json.loads(json.dumps(config, default=_jsonable))
        write_json(folder / "adapter_config.json", dict(sorted(jsonable.items())))
        # No address: the weights are in the folder, which may be moved.
        return Checkpoint(self._backend, self._engine.name, self._engine.digest, uri="")

    def _start_from(self, checkpoint: Checkpoint) -> None:
        """Take an earlier bake's weights; its layers, rank and alpha must be this one's."""
        saved, weights = read_adapter(checkpoint)
        shapes = {name: tensor.shape for name, tensor in self._state().items()}
        own_alpha = self._engine.module.peft_config[self._adapter].lora_alpha
        others = {name: tensor.shape for name, tensor in weights.items()}
        if shapes != others or saved.lora_alpha != own_alpha:
            raise BakeError(
                f"{checkpoint.uri}: its LoRA has other layers, another rank or another alpha than "
                "this run's; bake with the train.rank and the backend's options that it was baked "
                "with"
            )
        peft.set_peft_model_state_dict(self._engine.module, weights, adapter_name=self._adapter)

    def _state(self) -> dict[str, Tensor]:
        return adapter_state(self._engine, self._adapter)


def _attach(engine: Engine, adapter: str, settings: LoraSettings, rank: int, seed: int) -> None:
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=settings.alpha or rank,
        target_modules="all-linear",
        exclude_modules=_frozen_layers(forward.without_peft(engine.module), settings.frozen_share),
    )
    attach(engine, adapter, config, seed)
    engine.module.set_adapter(adapter)


def _frozen_layers(module: Any, share: float) -> str | None:
    """A regular expression for the modules of the lowest `share` of the layers; None for none."""
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


def _padded_ids(ids: Sequence[Tensor], places: Sequence[slice], length: int) -> Tensor:
    """The supports' ids at their places, int64 [M, C]; 0 where there are none."""
    padded = torch.zeros(length, max(each.shape[1] for each in ids), dtype=torch.long)
    for place, each in zip(places, ids, strict=True):
        padded[place, : each.shape[1]] = each.cpu()
    return padded


def _jsonable(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
