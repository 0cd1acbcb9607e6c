"""A LoRA's weights apart from any module, and the optimiser that changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from promptbake_loopback.errors import UserError

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class LoraShape:
    """What a LoRA consists of."""

    rank: int
    attn: bool = True
    mlp: bool = True
    unembed: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora_config.rank: expected at least 1, found {self.rank}")
        if not (self.attn or self.mlp or self.unembed):
            raise UserError("lora_config: nothing to train (train_attn, train_mlp, train_unembed)")


class Lora:
    """Weights by PEFT's names, with their gradients."""

    def __init__(self, shape: LoraShape, tensors: Mapping[str, Tensor]) -> None:
        self.shape = shape
        # In one order, fresh or loaded: the order in which a norm is summed is in its last bits.
        self.parameters = {name: Parameter(tensors[name].clone()) for name in sorted(tensors)}

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the weights."""
        return {name: value.detach().clone() for name, value in self.parameters.items()}


@dataclass(frozen=True)
class AdamParams:
    """One step's settings, by the SDK's names and with its defaults."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0  # 0: no clipping


class Optimizer:
    """AdamW over a LoRA."""

    def __init__(self, lora: Lora) -> None:
        self._parameters = lora.parameters
        self._adam = torch.optim.AdamW(list(lora.parameters.values()), lr=0.0)

    def step(self, settings: AdamParams) -> None:
        """Clip, change the weights, clear the gradient."""
        parameters = list(self._parameters.values())
        if all(parameter.grad is None for parameter in parameters):
            raise UserError("optim_step: there is no gradient since the last one")
        if settings.grad_clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip_norm)
        for group in self._adam.param_groups:
            group["lr"] = settings.learning_rate
            group["betas"] = (settings.beta1, settings.beta2)
            group["eps"] = settings.eps
            group["weight_decay"] = settings.weight_decay
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The moments, as flat as a safetensors file wants them."""
        return {
            f"{moment}.{name}": self._adam.state[parameter][moment].clone()
            for name, parameter in self._parameters.items()
            if parameter in self._adam.state
            for moment in MOMENTS
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, parameter in self._parameters.items():
            if f"step.{name}" in state:
                self._adam.state[parameter] = {
                    moment: state[f"{moment}.{name}"].clone() for moment in MOMENTS
                }
