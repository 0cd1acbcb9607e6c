"""The backend `torch`: transformers and peft on this machine, CPU or GPU.

The names in `__all__` are public: a plugin that loads its model in another way may build on them,
as promptbake_mock does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import lazy_loader
from annotated_types import Ge, Gt, Lt

from promptbake import Backend, Factories, hookimpl

if TYPE_CHECKING:
    from promptbake_torch.backend import TorchBackend
    from promptbake_torch.engine import Engine
    from promptbake_torch.loading import HubLoader, Loader, make_engine
    from promptbake_torch.lora import LoraSettings, LoraTrainer
    from promptbake_torch.model import TorchModel

__all__ = [
    "Engine",
    "HubLoader",
    "Loader",
    "LoraSettings",
    "LoraTrainer",
    "TorchBackend",
    "TorchModel",
    "make_engine",
    "torch_backend",
]

PROMPTBAKE_API = 2
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]
_PUBLIC = {  # by the module, which is imported at the first use of a name
    "backend": ["TorchBackend"],
    "engine": ["Engine"],
    "loading": ["HubLoader", "Loader", "make_engine"],
    "lora": ["LoraSettings", "LoraTrainer"],
    "model": ["TorchModel"],
}
# Without a __dir__, which would let pluggy import every name where it looks for hooks.
__getattr__ = lazy_loader.attach(__name__, submod_attrs=_PUBLIC)[0]


def torch_backend(
    *,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    alpha: Positive | None = None,
    frozen_share: Share = 0.0,
    max_grad_norm: Positive = 1.0,
    sample_batch: Annotated[int, Gt(0)] = 32,
) -> Backend:
    """Bake on this machine.

    Args:
        device: As torch names it; `auto` is a GPU where there is one.
        dtype: Of the model's weights; `auto` is bfloat16 on a GPU and float32 on a CPU.
        alpha: The LoRA's; the rank where it is not given.
        frozen_share: The share of the layers, from the bottom, that get no LoRA.
        max_grad_norm: What gradients are clipped to.
        sample_batch: How many prompts are sampled at a time.
    """
    from promptbake_torch.backend import TorchBackend
    from promptbake_torch.loading import HubLoader
    from promptbake_torch.lora import LoraSettings

    return TorchBackend(
        "torch",
        HubLoader(device, dtype),
        LoraSettings(alpha, frozen_share, max_grad_norm),
        sample_batch,
    )


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `torch`."""
    return {"torch": torch_backend}
