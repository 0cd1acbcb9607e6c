"""The backend `torch`: transformers and peft on this machine, CPU or GPU."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from promptbake import Backend, Factories, hookimpl

PROMPTBAKE_API = 2
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]


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

    `device` is torch's name of one, `auto` a GPU where there is one; `dtype` `auto` is bfloat16
    on a GPU and float32 on a CPU. `alpha` is the LoRA's (the rank where it is not given);
    `frozen_share` the share of the layers, from the bottom, that get no LoRA. Gradients are
    clipped to `max_grad_norm`; `sample_batch` prompts are answered at a time.
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
