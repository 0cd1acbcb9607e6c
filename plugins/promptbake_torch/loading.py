"""Opening a Hugging Face model: by hub id, by folder, or the embedded one by its name."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from promptbake import BakeError, ChatRenderer, excerpt
from promptbake_torch.engine import Engine

END_BYTES = 2**20  # of each end of a weights file, which its digest covers


class Loader(Protocol):
    """Opens a model by its name."""

    def __call__(self, name: str) -> Engine:
        """The engine of the model.

        Raises:
            BakeError: There is no such model.
        """
        ...


@dataclass(frozen=True)
class HubLoader:
    """Loads a hub id, a folder or the embedded model with transformers.

    Attributes:
        device: As torch names it; "auto" is a GPU where there is one.
        dtype: "float32", "bfloat16" or "auto".
    """

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
            reason = excerpt(str(error))
            raise BakeError(
                f"model.name = {name!r}: is no causal language model that transformers can load "
                f"(a folder with config.json and safetensors, a hub id, or {embedded.NAME}): "
                f"{reason}"
            ) from None
        return make_engine(module.to(device), tokenizer, name, _digest(Path(source), name))


def make_engine(module: Any, tokenizer: Any, name: str, digest: str) -> Engine:
    """Make an engine of a loaded model, and freeze the model.

    Args:
        module: A causal language model of transformers.
        tokenizer: Its tokenizer, with a chat template.
        name: As in `model.name`.
        digest: Changes when the weights do.

    Raises:
        BakeError: The tokenizer has no chat template.
    """
    module.eval().requires_grad_(False)
    if module.device.type == "cpu":
        torch.set_flush_denormal(True)
    stops = module.generation_config.eos_token_id if module.generation_config else None
    ids = stops if isinstance(stops, list) else [stops, tokenizer.eos_token_id]
    stop_ids = frozenset(int(token) for token in ids if token is not None)
    return Engine(module, ChatRenderer(tokenizer, name, stop_ids), name, digest)


def _device(option: str) -> torch.device:
    if option == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=option)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BakeError(f"options.backends.torch.device = {option!r}: {reason}") from None
    return torch.device(option)


def _dtype(option: str, device: torch.device) -> torch.dtype:
    if option == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, option)
    return dtype


def _digest(folder: Path, name: str) -> str:
    """SHA-256 of a folder's config and weights (size and both ends); of a hub id, its name."""
    digest = hashlib.sha256()
    if not folder.is_dir():
        digest.update(name.encode())
        return digest.hexdigest()
    for path in sorted(folder.glob("*")):
        if path.name == "config.json":
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            with path.open("rb") as file:
                digest.update(file.read(END_BYTES))
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - END_BYTES, 0))
                digest.update(file.read(END_BYTES) + str(size).encode())
    return digest.hexdigest()
