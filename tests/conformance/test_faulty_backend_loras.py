"""Faulty LoRAs of a backend: how they start, what they share, and the states they resume from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from faulty_suites import Fault, suites_for
from toy_backend import (
    UP,
    Late,
    Toy,
    ToySuite,
    Trainer,
    add_to_the_weights,
    after,
    backend_with,
    faults,
    passing,
    toy,
)

from promptbake.types import ImmediateResult

COUNT = itertools.count()


def with_seed(change: Callable[[int], int]) -> dict[str, Any]:
    """Starts by another seed."""

    def start(self: Any, base: Any, rank: int, seed: int, *rest: Any) -> None:
        Trainer.__init__(self, base, rank, change(seed), *rest)

    return {"__init__": start}


def start_somewhere(self: Any, *how: Any) -> None:
    Trainer.__init__(self, *how)
    add_to_the_weights(self, 0.02)


def train_the_base_model(self: Any, base: Any, **how: Any) -> Any:
    trainer = Toy.new_lora(self, base, **how)
    base.delta = lambda: trainer.student.delta().detach()
    return trainer


def train_one_lora_for_all(self: Any, base: Any, **how: Any) -> Any:
    """A second LoRA takes the first one's place."""
    trainer = Toy.new_lora(self, base, **how)
    if hasattr(self, "last"):
        vars(self.last).update(vars(trainer))
    self.last = trainer
    return trainer


LORAS = [
    *faults(
        "test_a_fresh_lora_answers_as_the_base_model",
        starts_somewhere={"__init__": start_somewhere},
    ),
    *faults(
        "test_the_same_seed_starts_the_same_lora",
        starts_without_a_seed=with_seed(lambda seed: next(COUNT)),
        starts_by_one_seed=with_seed(lambda seed: 0),
    ),
    Fault(
        "trains_the_base_model",
        "test_the_base_model_stays_as_it_is",
        {"new_lora": train_the_base_model},
        base=Toy,
    ),
    Fault(
        "trains_one_lora_for_all",
        "test_two_loras_train_side_by_side",
        {"new_lora": train_one_lora_for_all},
        base=Toy,
    ),
]


# --- states


def losing(change: Callable[[Any], object]) -> dict[str, Any]:
    """Loads a state, then changes each weight's in the optimizer."""

    def load_state(self: Any, folder: Path) -> None:
        Trainer.load_state(self, folder)
        for moments in self.optimizer.state.values():
            change(moments)

    return {"load_state": load_state}


def load_the_moments_alone(self: Any, folder: Path) -> None:
    self.optimizer.load_state_dict(torch.load(folder / toy.MOMENTS, weights_only=True))


def saving(change: Callable[[dict[str, bytes]], Any]) -> dict[str, Any]:
    """Saves other files."""
    return {
        "save_state": after(
            Trainer.save_state, lambda self, state: ImmediateResult(change(state.result()))
        )
    }


STATES = [
    *faults(
        "test_training_resumes_as_if_it_had_not_stopped",
        forgets_the_moments=losing(lambda moments: moments.clear()),
        forgets_the_second_moment=losing(lambda moments: moments["exp_avg_sq"].zero_()),
        counts_steps_from_zero=losing(lambda moments: moments["step"].zero_()),
    ),
    *faults(
        "test_a_state_is_of_the_moment_at_which_it_was_requested",
        forgets_the_weights={"load_state": load_the_moments_alone},
        starts_again={"load_state": lambda self, folder: None},
        saves_when_waited_for={
            "save_state": lambda self, step: Late(lambda: Trainer.save_state(self, step).result())
        },
    ),
    *faults(
        "test_a_states_files_can_be_written",
        saves_into_a_folder=saving(lambda state: {f"step/{name}": state[name] for name in state}),
        saves_text=saving(lambda state: state | {"step.txt": "3"}),
        saves_nothing=saving(lambda state: {}),
    ),
]


# --- starting from an earlier bake


def starting(change: Callable[[Any], None]) -> dict[str, Any]:
    """A LoRA that starts from an earlier bake is changed."""

    def new_lora(self: Any, base: Any, *, start: Any = None, **how: Any) -> Any:
        trainer = Toy.new_lora(self, base, start=start, **how)
        if start is not None:
            change(trainer)
        return trainer

    return {"new_lora": new_lora}


def freeze(trainer: Any) -> None:
    """The weights that are loaded are not those that are trained."""
    weights = {name: weight.detach().clone() for name, weight in trainer.weights.items()}
    trainer.student.delta = lambda: toy._delta(weights) + 0 * trainer.weights[UP].sum()


def save_the_change_alone(trainer: Any) -> None:
    earlier, save = trainer.weights[UP].detach().clone(), trainer.save_adapter

    def save_adapter(folder: Path) -> Any:
        checkpoint = save(folder)
        weights = trainer.weights | {UP: trainer.weights[UP] - earlier}
        (folder / toy.WEIGHTS).write_bytes(toy._bytes(weights))
        return checkpoint

    trainer.save_adapter = save_adapter


def train_in_the_earlier_bakes_folder(
    self: Any, base: Any, *, start: Any = None, **how: Any
) -> Any:
    trainer = Toy.new_lora(self, base, start=start, **how)
    step = trainer.optim_step

    def optim_step(lr: float) -> Any:
        stepped = step(lr)
        trainer.save_adapter(Path(start.uri))
        return stepped

    if start is not None:
        trainer.optim_step = optim_step
    return trainer


def refuse_nothing(self: Any, base: Any, *, rank: int, seed: int, start: Any = None) -> Any:
    try:
        return Toy.new_lora(self, base, rank=rank, seed=seed, start=start)
    except toy.BakeError:
        return Toy.new_lora(self, base, rank=rank, seed=seed)


def fail_by_an_error_of_torch(self: Any, base: Any, *, start: Any = None, **how: Any) -> Any:
    try:
        return Toy.new_lora(self, base, start=start, **how)
    except toy.BakeError as error:
        raise RuntimeError("size mismatch for lora_A") from error


STARTS = [
    *faults(
        "test_a_lora_starts_as_an_earlier_bake_and_trains_on",
        ignores_the_start={"new_lora": passing(Toy.new_lora, start=lambda start: None)},
        trains_nothing_from_a_start_on=starting(freeze),
        saves_the_change_alone=starting(save_the_change_alone),
        trains_in_the_earlier_bakes_folder={"new_lora": train_in_the_earlier_bakes_folder},
    ),
    *faults(
        "test_an_unfit_checkpoint_is_no_start",
        starts_afresh_where_it_cannot={"new_lora": refuse_nothing},
        fails_by_an_error_of_torch={"new_lora": fail_by_an_error_of_torch},
    ),
    Fault(
        "says_that_it_starts_from_nothing",
        "test_starting_from_a_checkpoint_is_refused",
        flags={"starts_from_checkpoint": False},
    ),
]
FAULTS = [*(replace(fault, base=fault.base or Trainer) for fault in LORAS + STATES), *STARTS]

suites = suites_for(ToySuite, "backend", Toy, FAULTS, backend_with)
globals().update({name: suite for name, suite in suites.items() if name != "TestGood"})
