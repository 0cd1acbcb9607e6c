"""The core's Backend over an engine that a loader opens."""

from __future__ import annotations

import shutil
from pathlib import Path

from promptbake.costs import Budget
from promptbake.errors import BakeError
from promptbake.interfaces import Model, Trainer
from promptbake.types import Checkpoint, Datums
from promptbake_torch.loading import Loader
from promptbake_torch.lora import LoraSettings, LoraTrainer, load_adapter
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

    def new_lora(self, base: Model, *, rank: int, seed: int, datums: Datums = "one") -> Trainer:
        """A fresh LoRA on `base`."""
        if datums != "one":
            raise BakeError(
                f"train.datums = {datums!r}: the backend {self.name} trains on one datum a "
                "conversation, and gains nothing by more; leave it at 'one'"
            )
        return LoraTrainer(_ours(base), self.name, self._settings, rank, seed)

    def load_adapter(self, base: Model, checkpoint: Checkpoint) -> Model:
        """The baked model."""
        return load_adapter(_ours(base), checkpoint)

    def export(self, base: Model, checkpoint: Checkpoint, folder: Path) -> None:
        """The adapter is at home: copy it."""
        load_adapter(_ours(base), checkpoint)  # refuses a spoiled one
        for file in Path(checkpoint.uri).iterdir():
            shutil.copy2(file, folder)


def _ours(model: Model) -> TorchModel:
    if not isinstance(model, TorchModel):
        raise TypeError(f"expected a model that this backend opened, found {model!r}")
    return model
