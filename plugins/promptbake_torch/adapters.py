"""Adapters in a folder, in PEFT's format: loading one onto the base model, and exporting one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import safetensors.torch
from torch import Tensor

from promptbake import BakeError, Checkpoint, excerpt, write_atomic
from promptbake_torch.model import TorchModel

WEIGHTS = "adapter_model.safetensors"
# What peft raises for a folder that holds no adapter, or one that does not fit the model.
UNUSABLE = (
    *(OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError),
    *(ImportError, UserWarning, safetensors.SafetensorError),
)


def load_adapter(base: TorchModel, checkpoint: Checkpoint, strength: float = 1.0) -> TorchModel:
    """Put a saved adapter on the base model, scaled by `strength`.

    Raises:
        BakeError: The folder holds no adapter for this model.
    """
    engine = base.engine
    adapter = engine.next_adapter()
    try:
        with _raise_for_missing_weights():
            if hasattr(engine.module, "load_adapter") and hasattr(engine.module, "peft_config"):
                engine.module.load_adapter(checkpoint.uri, adapter_name=adapter)
            else:
                engine.module = peft.PeftModel.from_pretrained(
                    engine.module, checkpoint.uri, adapter_name=adapter
                )
    except UNUSABLE as error:
        reason = excerpt(str(error))
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
        weights = read_weights(checkpoint)
        scaled = {n: w * strength if ".lora_B." in n else w for n, w in weights.items()}
        write_atomic(folder / WEIGHTS, safetensors.torch.save(scaled, {"format": "pt"}))


def read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a saved adapter. Raises BakeError where it cannot be read."""
    try:
        return safetensors.torch.load((Path(checkpoint.uri) / WEIGHTS).read_bytes())
    except UNUSABLE as error:
        raise BakeError(f"{checkpoint.uri}: is no adapter: {error}") from None


@contextmanager
def _raise_for_missing_weights() -> Iterator[None]:
    """peft only warns where a file lacks weights, and leaves them as they were before training."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
        yield
