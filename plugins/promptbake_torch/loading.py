"""Opening a Hugging Face model: by hub id, by folder, or the embedded one by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from promptbake import BakeError, ChatRenderer, excerpt
from promptbake_torch import embedded
from promptbake_torch.digests import hub_digest, model_digest
from promptbake_torch.engine import Engine


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

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        device = _device(self.device)
        source = _source(name)
        dtype = _dtype(self.dtype, device)
        try:  # no code that a model brings is ever run
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            module = transformers.AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=dtype, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            reason = excerpt(str(error))
            raise BakeError(
                f"model.name = {name!r}: is no causal language model that transformers can load "
                f"(a folder with config.json and safetensors, a hub id, or {embedded.NAME}): "
                f"{reason}"
            ) from None
        digest = model_digest(name, Path(source))
        if revision := getattr(config, "_commit_hash", None):  # the one that was loaded
            digest = hub_digest(name, revision)
        if digest is None:
            raise RuntimeError(f"model.name = {name!r}: was loaded, and has no known revision")
        return make_engine(module.to(device), tokenizer, name, digest)

    def digest(self, name: str) -> str | None:
        """The digest that the engine would have; None where the model is not on this machine."""
        return model_digest(name, Path(_source(name)))


def _source(name: str) -> str:
    """What transformers loads the model from."""
    return str(embedded.folder()) if name == embedded.NAME else name


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
