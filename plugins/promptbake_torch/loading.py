"""Opening a Hugging Face model: by hub id, by folder, or the embedded one by its name."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from promptbake import BakeError, ChatRenderer
from promptbake_torch.engine import Engine

EDGE = 2**20  # bytes of each end of a weights file that its digest covers


class Loader(Protocol):
    """Turns a model's name into an engine."""

    def __call__(self, name: str) -> Engine:
        """Raises BakeError for what is no model."""
        ...


@dataclass(frozen=True)
class HubLoader:
    """Loads with transformers onto a device."""

    device: str
    dtype: str

    def __call__(self, name: str) -> Engine:
        """Load the model and its tokenizer."""
        import transformers

        from promptbake_torch import embedded

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        device = _device(self.device)
        source = str(embedded.folder()) if name == embedded.NAME else name
        try:
            config = transformers.AutoConfig.from_pretrained(source)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
            module = transformers.AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=_dtype(self.dtype, device)
            )
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BakeError(
                f"model.name = {name!r}: is no causal language model that transformers can load "
                f"(a folder with config.json and safetensors, a hub id, or {embedded.NAME}): "
                f"{reason}"
            ) from None
        return make_engine(module.to(device), tokenizer, name, _digest(Path(source), name))


def make_engine(module: Any, tokenizer: Any, name: str, digest: str) -> Engine:
    """An engine of a loaded module and tokenizer; the module is frozen."""
    module.eval().requires_grad_(False)
    if module.device.type == "cpu":
        torch.set_flush_denormal(True)
    stops = module.generation_config.eos_token_id if module.generation_config else None
    ids = stops if isinstance(stops, list) else [stops, tokenizer.eos_token_id]
    stop_ids = frozenset(int(token) for token in ids if token is not None)
    return Engine(module, ChatRenderer(tokenizer, name, stop_ids), name, digest)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BakeError(f"options.backends.torch.device = {wanted!r}: {reason}") from None
    return torch.device(wanted)


def _dtype(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def _digest(folder: Path, name: str) -> str:
    """Of a folder's config and weights (their sizes and both ends); of a hub id, its name."""
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(name.encode())
        return digest.hexdigest()
    for path in sorted(folder.glob("*")):
        if path.name == "config.json":
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(file.read(EDGE))
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - EDGE, 0))
                digest.update(file.read(EDGE) + str(size).encode())
    return digest.hexdigest()
