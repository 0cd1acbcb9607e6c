"""The core's Backend on Tinker."""

from __future__ import annotations

from pathlib import Path

from promptbake import BakeError, Budget, Checkpoint, Model, Trainer
from promptbake_tinker.base import Base
from promptbake_tinker.connection import Connect, connect
from promptbake_tinker.export import download_adapter
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.settings import Settings
from promptbake_tinker.trainer import TinkerTrainer


class TinkerBackend:
    """Opens base models, trains LoRAs on them, and loads checkpoints by their address.

    `name` is recorded in the checkpoints. `connect` says how each base model is reached.
    """

    def __init__(
        self, settings: Settings, name: str = "tinker", connect: Connect = connect
    ) -> None:
        self._settings, self.name, self._connect = settings, name, connect

    def open_model(self, name: str, budget: Budget) -> Model:
        """A base model of the service. Raises BakeError where its tokens cannot be had."""
        return TinkerModel(Base(name, self._settings, budget, self._connect(name, self._settings)))

    def new_lora(
        self, base: Model, *, rank: int, seed: int, start: Checkpoint | None = None
    ) -> Trainer:
        """A LoRA on `base`: fresh, or with an earlier bake's weights."""
        return TinkerTrainer(_ours(base), self.name, rank, seed, start)

    def load_adapter(self, base: Model, checkpoint: Checkpoint, *, strength: float = 1.0) -> Model:
        """The weights at the checkpoint's address; Tinker serves them at strength 1 only.

        Raises:
            BakeError: It is no address of Tinker's, or another strength is wanted.
        """
        if not checkpoint.uri.startswith("tinker://"):
            raise BakeError(f"{checkpoint.uri}: is no address on Tinker; one begins with tinker://")
        if strength == 0:
            return TinkerModel(_ours(base).base)
        if strength != 1:
            raise BakeError(
                f"strength {strength:g}: Tinker serves an adapter at strength 1; export it with "
                f"--strength {strength:g} and load it elsewhere"
            )
        return TinkerModel(_ours(base).base, checkpoint.uri)

    def export(
        self, base: Model, checkpoint: Checkpoint, folder: Path, *, strength: float = 1.0
    ) -> None:
        """Download the weights in PEFT's format."""
        download_adapter(_ours(base).base, checkpoint, folder, strength)


def _ours(model: Model) -> TinkerModel:
    if not isinstance(model, TinkerModel):
        raise TypeError(f"expected a model that this backend opened, found {model!r}")
    return model
