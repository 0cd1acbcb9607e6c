"""The core's Backend on top of an engine that a loader opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from promptbake import Budget, Checkpoint, Model, Trainer
from promptbake_torch.adapters import export_adapter, load_adapter
from promptbake_torch.loading import Loader
from promptbake_torch.lora import LoraSettings, LoraTrainer
from promptbake_torch.model import TorchModel


class TorchBackend:
    """Opens models with a loader and trains LoRAs on them.

    Args:
        name: The one that the backend is registered under.
        loader: Turns `model.name` into an engine.
        settings: Of the LoRA and its optimizer.
        sample_batch: How many prompts are sampled at a time.

    Example:
        >>> def load(name: str) -> Engine:
        ...     return make_engine(my_module(name), my_tokenizer(name), name, digest="v1")
        >>> TorchBackend("mine", load, LoraSettings(), sample_batch=32)
    """

    def __init__(
        self, name: str, loader: Loader, settings: LoraSettings, sample_batch: int
    ) -> None:
        self.name = name
        self._loader = loader
        self._settings = settings
        self._sample_batch = sample_batch

    def model_digest(self, name: str) -> str | None:
        """Of the model's files, where the loader has a method `digest` that tells it."""
        digest_of: Callable[[str], str | None] | None = getattr(self._loader, "digest", None)
        return digest_of(name) if digest_of else None

    def open_model(self, name: str, budget: Budget | None = None) -> Model:
        """Open a base model, frozen; it costs nothing."""
        return TorchModel(self._loader(name), None, self._sample_batch)

    def new_lora(
        self, base: Model, *, rank: int, seed: int, start: Checkpoint | None = None
    ) -> Trainer:
        """A LoRA on `base`: fresh, or with an earlier bake's weights."""
        return LoraTrainer(_as_torch_model(base), self.name, self._settings, rank, seed, start)

    def load_adapter(self, base: Model, checkpoint: Checkpoint, *, strength: float = 1.0) -> Model:
        """The baked model."""
        return load_adapter(_as_torch_model(base), checkpoint, strength)

    def export(
        self, base: Model, checkpoint: Checkpoint, folder: Path, *, strength: float = 1.0
    ) -> None:
        """Copy the adapter, scaled where the strength is not 1."""
        load_adapter(_as_torch_model(base), checkpoint)  # raises for a damaged one
        export_adapter(checkpoint, folder, strength)


def _as_torch_model(model: Model) -> TorchModel:
    if not isinstance(model, TorchModel):
        raise TypeError(f"expected a model that this backend opened, found {model!r}")
    return model
