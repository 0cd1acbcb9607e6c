"""Adapters in a folder, in PEFT's format: reading, loading and exporting them.

A folder may be anybody's. Of its adapter_config.json two numbers are used; what the weights belong
to follows from their names, and a setting that could do more is refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import peft
import pydantic
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from promptbake import BakeError, Checkpoint, excerpt, write_atomic
from promptbake_torch.engine import Engine
from promptbake_torch.model import TorchModel

WEIGHTS, CONFIG, RECORD = "adapter_model.safetensors", "adapter_config.json", "promptbake.json"
FIRST, PART = "base_model.model.", ".lora_A.weight"  # around a module's name in PEFT's names
# What peft raises for an adapter that does not fit the model.
UNUSABLE = (
    *(OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError),
    *(ImportError, UserWarning, safetensors.SafetensorError),
)
ModuleName = Annotated[str, Field(pattern=r"^[\w.-]+$")]  # a regular expression may never end
OwnPattern = Annotated[str, Field(pattern=r"^\.\*[\w\\.]+\\\.\(\d+(\|\d+)*\)\\\.\.\*$")]


class AdapterConfig(BaseModel):
    """An adapter_config.json: a LoRA on modules with plain names, and nothing else."""

    model_config = ConfigDict(extra="allow")

    peft_type: Literal["LORA"]
    r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    target_modules: list[ModuleName]
    exclude_modules: list[ModuleName] | OwnPattern | None = None
    base_model_name_or_path: str | None = None
    task_type: str | None = None
    inference_mode: bool = True
    peft_version: str = ""

    @pydantic.model_validator(mode="after")
    def _others_are_defaults(self) -> AdapterConfig:
        defaults = peft.LoraConfig().to_dict()
        for key, value in (self.model_extra or {}).items():
            if value and value != defaults.get(key):
                raise ValueError(f"{key} = {value!r} is not a plain LoRA's")
        return self


def read_adapter(checkpoint: Checkpoint) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """A saved adapter's config and tensors. Raises BakeError where they cannot be read."""
    folder = Path(checkpoint.uri)
    try:
        for file in (folder / CONFIG, folder / WEIGHTS):
            if file.is_symlink() or not file.is_file():
                raise FileNotFoundError(f"{file.name} is no file there")
        config = AdapterConfig.model_validate_json((folder / CONFIG).read_bytes())
        return config, safetensors.torch.load((folder / WEIGHTS).read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"][:1])
        raise BakeError(
            f"{checkpoint.uri}: is no adapter: {CONFIG}: {where}{excerpt(first['msg'])}"
        ) from None
    except UNUSABLE as error:
        raise BakeError(f"{checkpoint.uri}: is no adapter: {excerpt(str(error))}") from None


def load_adapter(base: TorchModel, checkpoint: Checkpoint, strength: float = 1.0) -> TorchModel:
    """Put a saved adapter on the base model, scaled by `strength`.

    Raises:
        BakeError: The folder holds no adapter for this model.
    """
    engine = base.engine
    saved, weights = read_adapter(checkpoint)
    modules = [name.removeprefix(FIRST).removesuffix(PART) for name in weights if PART in name]
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=saved.r,
        lora_alpha=saved.lora_alpha,
        target_modules=modules,
        inference_mode=True,
    )
    adapter = engine.next_adapter()
    try:
        attach(engine, adapter, config, seed=0)
        expected = {name: tensor.shape for name, tensor in adapter_state(engine, adapter).items()}
        if expected != {name: tensor.shape for name, tensor in weights.items()}:
            raise ValueError("its weights are not those that its config and its model call for")
        peft.set_peft_model_state_dict(engine.module, weights, adapter_name=adapter)
    except UNUSABLE as error:
        message = f"{checkpoint.uri}: is no adapter for {engine.name}: {excerpt(str(error))}"
        raise BakeError(message) from None
    engine.module.eval()
    if strength != 1:
        for layer in engine.module.modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer) and adapter in layer.scaling:
                layer.scaling[adapter] *= strength
    return TorchModel(engine, adapter, base.sample_batch)


def export_adapter(checkpoint: Checkpoint, folder: Path, strength: float) -> None:
    """Copy a saved adapter; at another strength than 1 with its B matrices scaled."""
    names = (CONFIG, RECORD) if strength != 1 else (CONFIG, RECORD, WEIGHTS)
    for file in (Path(checkpoint.uri) / name for name in names):
        if file.is_file() and not file.is_symlink():
            shutil.copy2(file, folder)
    if strength != 1:
        _, weights = read_adapter(checkpoint)
        scaled = {n: w * strength if ".lora_B." in n else w for n, w in weights.items()}
        write_atomic(folder / WEIGHTS, safetensors.torch.save(scaled, {"format": "pt"}))


def attach(engine: Engine, adapter: str, config: Any, seed: int) -> None:
    """Add an adapter with fresh weights to the engine's module."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        engine.attach(adapter, config)


def adapter_state(engine: Engine, adapter: str) -> dict[str, Tensor]:
    """An adapter's tensors, by the names that PEFT's files have."""
    state = peft.get_peft_model_state_dict(
        engine.module, adapter_name=adapter, save_embedding_layers=False
    )
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
