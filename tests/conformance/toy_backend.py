"""A good backend on the tiny model, for faulty ones to be made of."""

from __future__ import annotations

import shutil
from pathlib import Path

from promptbake.costs import Budget
from promptbake.errors import BakeError
from promptbake.interfaces import Model, Pending
from promptbake.testing import tiny_model, tiny_tokenizer
from promptbake.types import Checkpoint, Datums, ImmediateResult
from promptbake_torch.loading import make_engine
from promptbake_torch.lora import LoraSettings, LoraTrainer, load_adapter
from promptbake_torch.model import TorchModel

BATCH = 8


def opened(kind: type[TorchModel], name: str, digest: str = "tiny", seed: int = 0) -> TorchModel:
    """The lowest layer of the tiny model as a model of that kind."""
    module = tiny_model(seed)
    module.model.layers = module.model.layers[:1]
    module.config.num_hidden_layers = 1
    return kind(make_engine(module, tiny_tokenizer(), name, digest), None, BATCH)


def like(base: TorchModel, found: TorchModel) -> TorchModel:
    """A model as one of the base model's kind."""
    return type(base)(found.engine, found.adapter, found.sample_batch)


class ToyTrainer(LoraTrainer):
    """Trains a LoRA; its student is a model of the base model's kind."""

    def __init__(
        self, base: TorchModel, backend: str, settings: LoraSettings, rank: int, seed: int
    ) -> None:
        super().__init__(base, backend, settings, rank, seed)
        self.base = base

    def snapshot(self) -> Pending[Model]:
        student = super().snapshot().result()
        assert isinstance(student, TorchModel)
        return ImmediateResult(like(self.base, student))


class Toy:
    """Opens the model `tiny`."""

    name = "toy"
    model = TorchModel
    trainer = ToyTrainer

    def open_model(self, name: str, budget: Budget) -> Model:
        if name != "tiny":
            raise BakeError(f"model.name = {name!r}: there is only 'tiny'")
        return opened(self.model, name)

    def new_lora(
        self, base: TorchModel, *, rank: int, seed: int, datums: Datums = "one"
    ) -> ToyTrainer:
        if datums != "one":
            raise BakeError(f"train.datums = {datums!r}: leave it at 'one'")
        return self.trainer(base, self.name, LoraSettings(), rank, seed)

    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        return like(base, load_adapter(base, checkpoint))

    def export(self, base: TorchModel, checkpoint: Checkpoint, folder: Path) -> None:
        shutil.copytree(checkpoint.uri, folder, dirs_exist_ok=True)


def backend_of(model: type[TorchModel]) -> type[Toy]:
    """A backend whose models are of that kind."""
    return type(model.__name__, (Toy,), {"model": model})


def trained_by(trainer: type[ToyTrainer]) -> type[Toy]:
    """A backend whose trainers are of that kind."""
    return type(trainer.__name__, (Toy,), {"trainer": trainer})
