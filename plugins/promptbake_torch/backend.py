"""The core's Backend over an engine that a loader opens."""

from __future__ import annotations

from pathlib import Path

from promptbake import Budget, Checkpoint, Model, Trainer
from promptbake_torch.loading import Loader
from promptbake_torch.lora import LoraSettings, LoraTrainer, export_adapter, load_adapter
from promptbake_torch.model import TorchModel


class TorchBackend:
    """Opens models with `loader` and trains LoRAs on them. Public: other plugins may build on it.

    `name` is the one that the backend is offered under.
    """

    def __init__(
        self, name: str, loader: Loader, settings: LoraSettings, sample_batch: int
    ) -> None:
        self.name = name
        self._loader = loader
        self._settings = settings
        self._sample_batch = sample_batch

    def open_model(self, name: str, budget: Budget | None = None) -> Model:
        """Open a base model, frozen. It costs nothing."""
        return TorchModel(self._loader(name), None, self._sample_batch)

    def new_lora(
        self, base: Model, *, rank: int, seed: int, start: Checkpoint | None = None
    ) -> Trainer:
        """A LoRA on `base`: fresh, or with an earlier bake's weights."""
        return LoraTrainer(_ours(base), self.name, self._settings, rank, seed, start)

    def load_adapter(self, base: Model, checkpoint: Checkpoint, *, strength: float = 1.0) -> Model:
        """The baked model."""
        return load_adapter(_ours(base), checkpoint, strength)

    def export(
        self, base: Model, checkpoint: Checkpoint, folder: Path, *, strength: float = 1.0
    ) -> None:
        """Copy the adapter, scaled where the strength is not 1."""
        load_adapter(_ours(base), checkpoint)  # refuses a damaged one
        export_adapter(checkpoint, folder, strength)


def _ours(model: Model) -> TorchModel:
    if not isinstance(model, TorchModel):
        raise TypeError(f"expected a model that this backend opened, found {model!r}")
    return model
