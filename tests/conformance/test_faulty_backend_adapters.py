"""Faulty checkpoints, baked models and exports of a backend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from faulty_suites import Fault, suite_for, suites_for
from toy_backend import DOWN, UP, Toy, ToySuite, Trainer, backend_with, faults, toy

CONFIG, WEIGHTS = "adapter_config.json", toy.WEIGHTS


class Plain(Toy):
    """Loads an adapter as it is, always starts afresh, and exports nothing."""

    def new_lora(self, base: Any, *, start: Any = None, **how: Any) -> Any:
        refuse(start is not None)
        return super().new_lora(base, **how)

    def load_adapter(self, base: Any, checkpoint: Any, *, strength: float = 1.0) -> Any:
        refuse(strength != 1.0)
        return super().load_adapter(base, checkpoint)

    def export(self, *arguments: Any, **options: Any) -> None:
        refuse(True)


def refuse(asked_for: bool) -> None:
    if asked_for:
        raise toy.BakeError("that cannot be done")


# --- checkpoints


def checkpoint(change: Callable[..., Any]) -> dict[str, Any]:
    """Saves under another record: `change` has the good one and the folder."""
    return {"save_adapter": lambda self, folder: change(Trainer.save_adapter(self, folder), folder)}


def save_half(self: Any, folder: Path) -> Any:
    record = Trainer.save_adapter(self, folder)
    (folder / WEIGHTS).write_bytes(toy._bytes(self.weights | {UP: self.weights[UP] / 2}))
    return record


WHOSE = "test_a_checkpoint_names_its_backend_and_its_model"
BAKED = "test_the_baked_model_is_the_student_that_was_saved"
CHECKPOINTS = [
    *faults(
        WHOSE,
        is_of_another_backend=checkpoint(lambda good, _: replace(good, backend="torch")),
        is_of_no_digest=checkpoint(lambda good, _: replace(good, base_digest="")),
        is_of_a_path=checkpoint(lambda good, folder: replace(good, uri=str(folder))),
        has_numbers=checkpoint(lambda good, _: replace(good, details={"rank": 4})),
    ),
    *faults(BAKED, saves_half={"save_adapter": save_half}),
    Fault(
        "saves_the_environment",
        "test_no_key_is_seen",
        checkpoint(lambda good, _: replace(good, details=dict(os.environ))),
        {"keys": ("PATH",)},
    ),
]

# --- loading


def loading(change: Callable[..., Any]) -> dict[str, Any]:
    """Another model is loaded: `change` has the backend, the base model, and the good one."""

    def load_adapter(self: Any, base: Any, checkpoint: Any, **how: Any) -> Any:
        return change(self, base, Toy.load_adapter(self, base, checkpoint, **how))

    return {"load_adapter": load_adapter}


def load_onto_the_base_model(self: Any, base: Any, baked: Any) -> Any:
    base.delta = baked.delta
    return baked


def load_one_at_a_time(self: Any, base: Any, baked: Any) -> Any:
    if hasattr(self, "last"):
        self.last.delta = baked.delta
    self.last = baked
    return baked


def load_under_another_digest(self: Any, base: Any, baked: Any) -> Any:
    baked.digest += "-baked"
    return baked


def keep_what_is_trained(self: Any, base: Any, **how: Any) -> Any:
    self.trained = Toy.new_lora(self, base, **how)
    return self.trained


def load_what_is_trained(self: Any, base: Any, checkpoint: Any, **how: Any) -> Any:
    """Out of its memory, whatever is in the folder."""
    return self.trained.snapshot().result()


def load_anything(self: Any, base: Any, checkpoint: Any, **how: Any) -> Any:
    if not (Path(checkpoint.uri) / WEIGHTS).exists():
        return base
    return Toy.load_adapter(self, base, checkpoint, **how)


def crash_without_a_file(self: Any, base: Any, checkpoint: Any, **how: Any) -> Any:
    (Path(checkpoint.uri) / WEIGHTS).read_bytes()
    return Toy.load_adapter(self, base, checkpoint, **how)


LOADING = [
    *faults(BAKED, loads_the_base_model=loading(lambda self, base, baked: base)),
    *faults(
        "test_base_and_baked_models_answer_side_by_side",
        loads_onto_the_base_model=loading(load_onto_the_base_model),
        loads_one_at_a_time=loading(load_one_at_a_time),
    ),
    *faults(
        "test_a_folder_without_an_adapter_is_refused",
        loads_what_is_trained={
            "new_lora": keep_what_is_trained,
            "load_adapter": load_what_is_trained,
        },
        loads_anything={"load_adapter": load_anything},
        crashes_without_a_file={"load_adapter": crash_without_a_file},
    ),
    *faults(
        "test_a_baked_model_has_its_base_models_name_and_digest",
        loads_under_another_digest=loading(load_under_another_digest),
    ),
]

# --- strength


def at_strength(change: Callable[[float], float]) -> dict[str, Any]:
    """Loads an adapter at another strength."""

    def load_adapter(self: Any, base: Any, checkpoint: Any, *, strength: float = 1.0) -> Any:
        return Toy.load_adapter(self, base, checkpoint, strength=change(strength))

    return {"load_adapter": load_adapter}


def exported_at(change: Callable[[float], float]) -> dict[str, Any]:
    """Exports an adapter at another strength."""

    def export(
        self: Any, base: Any, checkpoint: Any, folder: Path, *, strength: float = 1.0
    ) -> Any:
        Toy.export(self, base, checkpoint, folder, strength=change(strength))

    return {"export": export}


def scale_every_adapter(self: Any, base: Any, checkpoint: Any, *, strength: float = 1.0) -> Any:
    """As where a layer has one scaling for all of them."""
    self.strength = strength
    weights = toy._read(checkpoint)
    return base.with_lora(lambda: self.strength * toy._delta(weights))


def scale_the_base_model(self: Any, base: Any, checkpoint: Any, *, strength: float = 1.0) -> Any:
    baked = Toy.load_adapter(self, base, checkpoint, strength=strength)
    if 0 < strength < 1:
        base.head = strength * base.head
    return baked


STRENGTH = "test_strength_scales_the_change_of_the_weights"
PEFT = "test_an_adapter_is_exported_in_pefts_format"
REFUSED = "test_another_strength_is_refused"
NOT_EXPORTED = "test_another_strength_is_not_exported"
STRENGTHS = [
    *faults(
        STRENGTH,
        ignores_the_strength=at_strength(lambda strength: 1.0),
        takes_no_strength_for_all=at_strength(lambda strength: strength or 1.0),
        scales_a_and_b=at_strength(lambda strength: strength**2),
        scales_by_the_root=at_strength(lambda strength: strength**0.5),
        takes_any_strength_for_all=at_strength(lambda strength: float(strength > 0)),
        divides_by_the_strength=at_strength(lambda strength: strength and 1 / strength),
        scales_every_adapter={"load_adapter": scale_every_adapter},
        scales_the_base_model={"load_adapter": scale_the_base_model},
    ),
    *faults(
        PEFT,
        exports_at_full_strength=exported_at(lambda strength: 1.0),
        exports_a_and_b_scaled=exported_at(lambda strength: strength**2),
    ),
    Fault("says_that_it_has_one_strength", REFUSED, flags={"scales_adapters": False}),
    Fault(
        "exports_at_a_strength_that_it_does_not_load_at",
        NOT_EXPORTED,
        {"load_adapter": Plain.load_adapter},
        {"scales_adapters": False, "scales_exports": False},
    ),
]

# --- exports


def exporting(change: Callable[[Path], object]) -> dict[str, Any]:
    """Changes the folder behind a good export."""

    def export(
        self: Any, base: Any, checkpoint: Any, folder: Path, *, strength: float = 1.0
    ) -> Any:
        Toy.export(self, base, checkpoint, folder, strength=strength)
        change(folder)

    return {"export": export}


def reweigh(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        file = folder / WEIGHTS
        weights = toy._read(replace(NOWHERE, uri=str(folder)))
        file.write_bytes(toy._bytes({name: w.contiguous() for name, w in change(weights).items()}))

    return write


def write_rank_8(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text()) | {"r": 8}
    (folder / CONFIG).write_text(json.dumps(config))


NOWHERE = toy.Checkpoint("toy", "toy", "", "")
EXPORTS = [
    *faults(
        PEFT,
        exports_nothing={"export": lambda self, *arguments, **options: None},
        refuses_to_export={"export": Plain.export},
        exports_weights_alone=exporting(lambda folder: (folder / CONFIG).unlink()),
        exports_zeros=exporting(reweigh(lambda weights: weights | {UP: 0 * weights[UP]})),
        exports_a_without_b=exporting(reweigh(lambda weights: {DOWN: weights[DOWN]})),
        exports_another_rank=exporting(write_rank_8),
        has_one_rank_for_all={
            "new_lora": lambda self, base, *, rank, **how: Toy.new_lora(self, base, rank=8, **how)
        },
    ),
    Fault("says_that_it_exports_nothing", "test_export_is_refused", flags={"exports": False}),
]
FAULTS = [*(replace(fault, base=Trainer) for fault in CHECKPOINTS), *LOADING, *STRENGTHS, *EXPORTS]

globals().update(suites_for(ToySuite, "backend", Toy, FAULTS, backend_with))
TestGood = suite_for(
    ToySuite,
    "backend",
    Plain,
    exports=False,
    scales_adapters=False,
    scales_exports=False,
    starts_from_checkpoint=False,
)
