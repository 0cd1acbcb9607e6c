"""A LoRA in the files that save_weights_external offers for download."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import safetensors.torch

from promptbake_loopback.tinker.lora import Lora

PREFIX = "base_model.model."


def exported(
    lora: Lora, head: str, alpha: float, base_model: str, recipients: Sequence[str] | None
) -> Mapping[str, bytes]:
    """The files by name, encrypted by age where recipients are given.

    `head` is the model's name of its output layer, which Tinker calls model.unembed_tokens.
    """
    tensors = {
        name.replace(f"{PREFIX}{head}.", f"{PREFIX}model.unembed_tokens."): value.contiguous()
        for name, value in lora.tensors().items()
    }
    config = {
        "base_model_name_or_path": base_model,
        "lora_alpha": alpha,
        "peft_type": "LORA",
        "r": lora.shape.rank,
        "task_type": "CAUSAL_LM",
    }
    files = {
        "adapter_model.safetensors": safetensors.torch.save(tensors),
        "adapter_config.json": json.dumps(config).encode(),
    }
    if not recipients:
        return files
    import pyrage  # type: ignore[import-untyped]  # it ships no types

    keys = [pyrage.x25519.Recipient.from_str(text) for text in recipients]
    return {f"{name}.age": pyrage.encrypt(content, keys) for name, content in files.items()}
