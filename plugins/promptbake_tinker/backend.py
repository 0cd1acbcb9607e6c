"""The core's Backend on Tinker."""

from __future__ import annotations

from pathlib import Path

from promptbake import BakeError, Budget, Checkpoint, Model, NoBudget, Renderer, Trainer
from promptbake_tinker.base import Base
from promptbake_tinker.connection import Connect, Connection, connect
from promptbake_tinker.export import download_adapter
from promptbake_tinker.model import TinkerModel, digest_of
from promptbake_tinker.settings import Settings
from promptbake_tinker.trainer import TinkerTrainer


class TinkerBackend:
    """Opens base models, trains LoRAs on them, and loads checkpoints by their address.

    `name` is recorded in the checkpoints. `connect` returns the connection to each base model.
    """

    def __init__(
        self, settings: Settings, name: str = "tinker", connect: Connect = connect
    ) -> None:
        self._settings, self.name, self._connect = settings, name, connect
        self._connections: dict[str, Connection] = {}
        self._bases: list[Base] = []

    def model_digest(self, name: str) -> str:
        """Of its name: the service keeps the weights."""
        return digest_of(name)

    def open_model(self, name: str, budget: Budget) -> Model:
        """Open a base model of the service. Raises BakeError if its tokenizer does not load."""
        self._bases.append(self._base(name, budget))
        return TinkerModel(self._bases[-1])

    def open_renderer(self, name: str) -> Renderer:
        """Load a model's tokenizer alone. Raises BakeError if it does not load."""
        return self._base(name, NoBudget()).renderer

    def note_failure(self, error: BaseException) -> None:
        """Let the sessions that are open end as failed, or as interrupted."""
        for base in self._bases:
            base.note_failure(error)

    def new_lora(
        self, base: Model, *, rank: int, seed: int, start: Checkpoint | None = None
    ) -> Trainer:
        """Create a LoRA on `base`: fresh, or with the weights of an earlier bake.

        Raises:
            BakeError: `start` has another base model or rank, or no training state.
        """
        return TinkerTrainer(_ours(base), self.name, rank, seed, start)

    def load_adapter(self, base: Model, checkpoint: Checkpoint, *, strength: float = 1.0) -> Model:
        """Open the weights at the checkpoint's address, at strength 0 or 1 only.

        Raises:
            BakeError: It is not an address on Tinker, or the strength is another one.
        """
        if not checkpoint.uri.startswith("tinker://"):
            raise BakeError(
                f"{checkpoint.uri}: not an address on Tinker; one begins with tinker://"
            )
        if strength == 0:
            return TinkerModel(_ours(base).base)
        if strength != 1:
            raise BakeError(
                f"strength {strength:g}: Tinker serves an adapter at strength 1; export it with "
                f"--strength {strength:g} and load it elsewhere"
            )
        ours, state = _ours(base).base, checkpoint.details.get("state")
        training = (lambda: ours.from_state(state)) if state else None
        return TinkerModel(ours, checkpoint.uri, training=training)

    def export(
        self, base: Model, checkpoint: Checkpoint, folder: Path, *, strength: float = 1.0
    ) -> None:
        """Download the weights in PEFT's format."""
        download_adapter(_ours(base).base, checkpoint, folder, strength)

    def _base(self, name: str, budget: Budget) -> Base:
        if name not in self._connections:
            self._connections[name] = self._connect(name, self._settings)
        return Base(name, self._settings, budget, self._connections[name])


def _ours(model: Model) -> TinkerModel:
    if not isinstance(model, TinkerModel):
        raise TypeError(f"expected a model that this backend opened, found {model!r}")
    return model
