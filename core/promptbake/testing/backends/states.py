"""The part of the suite for backends about training that resumes, or starts from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from promptbake.testing.backends.common import refuses
from promptbake.testing.backends.training_cases import (
    OPPOSITE,
    RANK,
    STEPS,
    Training,
    TrainingTests,
)
from promptbake.testing.suite import only_if
from promptbake.types import Checkpoint


class StateTests(TrainingTests):
    """Of `save_state`, `load_state`, and `new_lora(..., start=...)`."""

    def test_a_state_is_of_the_moment_at_which_it_was_requested(self, training: Training) -> None:
        trainer = training.trained()
        expected = training.of_student(trainer)
        state = trainer.save_state(STEPS)
        training.train(trainer)
        resumed = training.fresh()
        resumed.load_state(_written(state.result(), training.folder))
        self._check_same(
            training.of_student(resumed),
            expected,
            "a state holds the weights as they were when it was requested, and `load_state` puts "
            "them back",
        )

    def test_training_resumes_as_if_it_had_not_stopped(self, training: Training) -> None:
        whole, resumed = training.trained(), training.fresh()
        resumed.load_state(_written(whole.save_state(STEPS).result(), training.folder))
        for trainer in (whole, resumed):
            training.train(trainer, OPPOSITE)  # only Adam's moments still lead the other way
        training.check_same_student(
            resumed,
            whole,
            "one step after `load_state` the student is not the one that was not interrupted: a "
            "state holds Adam's moments and its count of steps, too",
            slack=0.05,
        )

    def test_a_states_files_can_be_written(self, training: Training) -> None:
        state = training.trained(steps=1).save_state(1).result()
        assert state, "a state has no files"
        for name, content in state.items():
            assert Path(name).name == name, f"a state's file is named {name!r}: no folders in it"
            assert isinstance(content, bytes), f"{name} is a {type(content).__name__}: bytes"

    @only_if("starts_from_checkpoint")
    def test_a_lora_starts_as_an_earlier_bake_and_trains_on(self, training: Training) -> None:
        trained = training.trained()
        expected = training.of_student(trained)
        earlier = training.saved(trained, "earlier")
        trainer = training.backend.new_lora(training.base, rank=RANK, seed=2, start=earlier)
        self._check_same(
            training.of_student(trainer), expected, "`start` gives the weights to start from"
        )
        losses = training.train(trainer, steps=2)
        assert losses[1] < losses[0], f"from an earlier bake on the losses are {losses}"
        student = training.of_student(trainer)
        self._check_same(
            training.load(training.saved(trainer, "later")),
            student,
            "what is saved is the student, the earlier bake included",
        )
        for logprobs in (training.load(earlier), training.of_student(trained)):
            self._check_same(logprobs, expected, "the earlier bake changes as the later one trains")

    @only_if("starts_from_checkpoint")
    def test_an_unfit_checkpoint_is_no_start(self, training: Training) -> None:
        other_rank = training.saved(training.fresh(rank=RANK // 2))
        _check_no_start(training, other_rank, "another rank")
        _check_no_start(training, training.no_adapter(), "an empty folder")

    @only_if("starts_from_checkpoint", False)
    def test_starting_from_a_checkpoint_is_refused(self, training: Training) -> None:
        checkpoint = training.saved(training.trained(steps=1))
        _check_no_start(training, checkpoint, "`starts_from_checkpoint` is False, and it")


def _check_no_start(training: Training, checkpoint: Checkpoint, what: str) -> None:
    def start() -> None:
        training.backend.new_lora(training.base, rank=RANK, seed=1, start=checkpoint)

    assert refuses(start, what), f"{what} is accepted as `start`: raise BakeError"


def _written(state: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in state.items():
        (folder / name).write_bytes(content)
    return folder
