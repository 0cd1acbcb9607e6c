"""Faulty states, checkpoints and exports. Run by test_faulty_plugins.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
from faulty_suites import suites_for
from toy_backend import Toy, ToyTrainer, trained_by

from promptbake.errors import BakeError
from promptbake.interfaces import Model, Pending, TrainingState
from promptbake.testing.backends.adapters import AdapterTests
from promptbake.types import Checkpoint, ImmediateResult
from promptbake_torch.lora import OPTIMIZER, WEIGHTS
from promptbake_torch.model import TorchModel

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Late:
    """A result that is worked out when it is asked for."""

    make: Callable[[], Any]

    def result(self) -> Any:
        return self.make()


# --- states


class FaultyState(ToyTrainer):
    """Its weights come back, and what `optimizer` makes of its optimiser's state."""

    def load_state(self, folder: Path) -> None:
        state = torch.load(folder / OPTIMIZER, weights_only=True)
        weights = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        peft.set_peft_model_state_dict(self._engine.module, weights, adapter_name=self._adapter)
        if changed := self.optimizer(state):
            self._optimizer.load_state_dict(changed)

    def optimizer(self, state: dict[str, Any]) -> dict[str, Any] | None:
        return state


class ForgetsTheMoments(FaultyState):
    def optimizer(self, state: dict[str, Any]) -> None:
        return None


class ForgetsTheSecondMoment(FaultyState):
    def optimizer(self, state: dict[str, Any]) -> dict[str, Any]:
        for each in state["state"].values():
            each["exp_avg_sq"].zero_()
        return state


class CountsStepsFromZero(FaultyState):
    def optimizer(self, state: dict[str, Any]) -> dict[str, Any]:
        for each in state["state"].values():
            each["step"].zero_()
        return state


class ForgetsTheWeights(ToyTrainer):
    def load_state(self, folder: Path) -> None:
        self._optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True))


class StartsAgain(ToyTrainer):
    def load_state(self, folder: Path) -> None:
        pass


class SavesWhenAsked(ToyTrainer):
    def save_state(self, step: int) -> Pending[TrainingState]:
        return Late(lambda: super(SavesWhenAsked, self).save_state(step).result())


class SavesIntoAFolder(ToyTrainer):
    def save_state(self, step: int) -> Pending[TrainingState]:
        state = super().save_state(step).result()
        return ImmediateResult({f"step-{step}/{name}": content for name, content in state.items()})


class SavesText(ToyTrainer):
    def save_state(self, step: int) -> Pending[Any]:
        return ImmediateResult({**super().save_state(step).result(), "step.txt": str(step)})


class SavesNothing(ToyTrainer):
    def save_state(self, step: int) -> Pending[TrainingState]:
        return ImmediateResult({})

    def load_state(self, folder: Path) -> None:
        pass


# --- checkpoints


class FaultyCheckpoint(ToyTrainer):
    def save_adapter(self, folder: Path) -> Checkpoint:
        return self.faulty(super().save_adapter(folder), folder)

    def faulty(self, checkpoint: Checkpoint, folder: Path) -> Checkpoint:
        return checkpoint


class OfAnotherBackend(FaultyCheckpoint):
    def faulty(self, checkpoint: Checkpoint, folder: Path) -> Checkpoint:
        return replace(checkpoint, backend="torch")


class OfNoDigest(FaultyCheckpoint):
    def faulty(self, checkpoint: Checkpoint, folder: Path) -> Checkpoint:
        return replace(checkpoint, base_digest="")


class OfAPath(FaultyCheckpoint):
    """The address is that of the folder in which it was written."""

    def faulty(self, checkpoint: Checkpoint, folder: Path) -> Checkpoint:
        return replace(checkpoint, uri=str(folder))


class WithNumbers(FaultyCheckpoint):
    def faulty(self, checkpoint: Checkpoint, folder: Path) -> Checkpoint:
        return replace(checkpoint, details={"rank": 4})  # type: ignore[dict-item]


class SavesTheStart(ToyTrainer):
    """The adapter is that of the first step."""

    def save_adapter(self, folder: Path) -> Checkpoint:
        with torch.no_grad():
            for each in self._parameters:
                each.mul_(0.5)
        return super().save_adapter(folder)


# --- loading


class LoadsTheBaseModel(Toy):
    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        super().load_adapter(base, checkpoint)
        return base


class LoadsOntoTheBaseModel(Toy):
    """The base model answers as the baked one from then on."""

    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        found = super().load_adapter(base, checkpoint)
        assert isinstance(found, TorchModel)
        base.adapter = found.adapter
        return found


class OneBakedModelAtATime(Toy):
    last: TorchModel | None = None

    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        found = super().load_adapter(base, checkpoint)
        assert isinstance(found, TorchModel)
        if self.last is not None:
            self.last.adapter = found.adapter
        self.last = found
        return found


class LoadsWhatItHasTrained(Toy):
    """Out of its memory, whatever is in the folder."""

    def new_lora(self, base: TorchModel, **how: Any) -> ToyTrainer:
        self.trained = super().new_lora(base, **how)
        return self.trained

    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        return self.trained.snapshot().result()


class LoadsAnything(Toy):
    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        if not (Path(checkpoint.uri) / WEIGHTS).exists():
            return base
        return super().load_adapter(base, checkpoint)


class CrashesWhereNothingIs(Toy):
    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        (Path(checkpoint.uri) / WEIGHTS).read_bytes()
        return super().load_adapter(base, checkpoint)


class Renamed(TorchModel):
    @property
    def digest(self) -> str:
        return f"{self.engine.digest}-{self.adapter}"


class BakedModelsAreOthers(Toy):
    """The digest is that of the base model and the adapter."""

    def load_adapter(self, base: TorchModel, checkpoint: Checkpoint) -> Model:
        found = super().load_adapter(base, checkpoint)
        assert isinstance(found, TorchModel)
        return Renamed(found.engine, found.adapter, found.sample_batch)


# --- exports


class ExportsNothing(Toy):
    def export(self, base: TorchModel, checkpoint: Checkpoint, folder: Path) -> None:
        pass


class RefusesToExport(Toy):
    def export(self, base: TorchModel, checkpoint: Checkpoint, folder: Path) -> None:
        raise BakeError("adapters cannot be brought home")


class ExportsWeightsAlone(Toy):
    def export(self, base: TorchModel, checkpoint: Checkpoint, folder: Path) -> None:
        super().export(base, checkpoint, folder)
        (folder / CONFIG).unlink()


class ExportsWhatIsNotTrained(Toy):
    def export(self, base: TorchModel, checkpoint: Checkpoint, folder: Path) -> None:
        super().export(base, checkpoint, folder)
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        zeros = {name: part * 0 if "lora_B" in name else part for name, part in weights.items()}
        safetensors.torch.save_file(zeros, folder / WEIGHTS)


class ExportsAnotherRank(Toy):
    def export(self, base: TorchModel, checkpoint: Checkpoint, folder: Path) -> None:
        super().export(base, checkpoint, folder)
        config = json.loads((folder / CONFIG).read_text()) | {"r": 8}
        (folder / CONFIG).write_text(json.dumps(config))


class OneRankForAll(ToyTrainer):
    def __init__(self, *how: Any) -> None:
        base, backend, settings, _, seed = how
        super().__init__(base, backend, settings, 8, seed)


SPOILT = {
    ForgetsTheMoments: "test_a_state_goes_on_as_if_nothing_had_happened",
    ForgetsTheSecondMoment: "test_a_state_goes_on_as_if_nothing_had_happened",
    CountsStepsFromZero: "test_a_state_goes_on_as_if_nothing_had_happened",
    ForgetsTheWeights: "test_a_state_is_of_the_moment_at_which_it_was_asked_for",
    StartsAgain: "test_a_state_is_of_the_moment_at_which_it_was_asked_for",
    SavesWhenAsked: "test_a_state_is_of_the_moment_at_which_it_was_asked_for",
    SavesIntoAFolder: "test_a_states_files_can_be_written",
    SavesText: "test_a_states_files_can_be_written",
    SavesNothing: "test_a_states_files_can_be_written",
    OfAnotherBackend: "test_a_checkpoint_says_whose_it_is",
    OfNoDigest: "test_a_checkpoint_says_whose_it_is",
    OfAPath: "test_a_checkpoint_outlives_the_name_of_its_folder",
    WithNumbers: "test_a_checkpoint_says_whose_it_is",
    SavesTheStart: "test_the_baked_model_is_the_student_that_was_saved",
    LoadsTheBaseModel: "test_the_baked_model_is_the_student_that_was_saved",
    LoadsOntoTheBaseModel: "test_base_and_baked_models_answer_side_by_side",
    OneBakedModelAtATime: "test_base_and_baked_models_answer_side_by_side",
    LoadsWhatItHasTrained: "test_what_is_no_adapter_is_refused",
    LoadsAnything: "test_what_is_no_adapter_is_refused",
    CrashesWhereNothingIs: "test_what_is_no_adapter_is_refused",
    BakedModelsAreOthers: "test_the_baked_model_is_known_by_its_base_model",
    ExportsNothing: "test_an_adapter_comes_home_in_pefts_format",
    RefusesToExport: "test_an_adapter_comes_home_in_pefts_format",
    ExportsWeightsAlone: "test_an_adapter_comes_home_in_pefts_format",
    ExportsWhatIsNotTrained: "test_an_adapter_comes_home_in_pefts_format",
    ExportsAnotherRank: "test_an_adapter_comes_home_in_pefts_format",
    OneRankForAll: "test_an_adapter_comes_home_in_pefts_format",
}
BACKENDS = {
    kind if issubclass(kind, Toy) else trained_by(kind): caught_by
    for kind, caught_by in SPOILT.items()
}

globals().update(suites_for(AdapterTests, "backend", Toy, BACKENDS))
