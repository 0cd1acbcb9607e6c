"""The part of the suite for backends about training that resumes, or starts from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.adapters import saved
from promptbake.testing.backends.common import refuses
from promptbake.testing.backends.training_cases import (
    LINEAR,
    OPPOSITE,
    RANK,
    STEPS,
    TrainingTests,
    distance,
    model_logprobs,
    student_logprobs,
    train,
)
from promptbake.testing.suite import only_if
from promptbake.types import Checkpoint, Example


class StateTests(TrainingTests):
    """Of `save_state`, `load_state`, and `new_lora(..., start=...)`."""

    def test_a_state_is_of_the_moment_at_which_it_was_requested(
        self, backend: Backend, base: Model, batch: list[Example], tmp_path: Path
    ) -> None:
        trainer = self._trained(backend, base, batch)
        expected = student_logprobs(trainer, batch)
        state = trainer.save_state(STEPS)
        train(trainer, batch, self.lr, LINEAR)
        resumed = self._fresh(backend, base)
        resumed.load_state(written(state.result(), tmp_path))
        self._check_same(
            student_logprobs(resumed, batch),
            expected,
            "a state holds the weights as they were when it was requested, and `load_state` puts "
            "them back",
        )

    def test_training_resumes_as_if_it_had_not_stopped(
        self, backend: Backend, base: Model, batch: list[Example], tmp_path: Path
    ) -> None:
        whole, resumed = self._trained(backend, base, batch), self._fresh(backend, base)
        resumed.load_state(written(whole.save_state(STEPS).result(), tmp_path))
        for trainer in (whole, resumed):
            train(trainer, batch, self.lr, OPPOSITE)  # only Adam's moments still lead the other way
        nats = distance(student_logprobs(resumed, batch), student_logprobs(whole, batch))
        step = self._distance_from_base(whole, base, batch)
        assert nats <= 0.05 * step + self.tolerance, (
            f"one step after `load_state` the student is {nats:.3g} nats from the one that was not "
            f"interrupted (the base model is {step:.3g} away): a state holds Adam's moments and "
            "its count of steps, too"
        )

    def test_a_states_files_can_be_written(
        self, backend: Backend, base: Model, batch: list[Example]
    ) -> None:
        state = self._trained(backend, base, batch, steps=1).save_state(1).result()
        assert state, "a state has no files"
        for name, content in state.items():
            assert Path(name).name == name, f"a state's file is named {name!r}: no folders in it"
            assert isinstance(content, bytes), f"{name} is a {type(content).__name__}: bytes"

    @only_if("starts_from_checkpoint")
    def test_a_lora_starts_as_an_earlier_bake_and_trains_on(
        self, backend: Backend, base: Model, batch: list[Example], tmp_path: Path
    ) -> None:
        trained = self._trained(backend, base, batch)
        expected = student_logprobs(trained, batch)
        earlier = saved(trained, backend, base, tmp_path / "earlier")
        trainer = backend.new_lora(base, rank=RANK, seed=2, start=earlier)
        self._check_same(
            student_logprobs(trainer, batch), expected, "`start` gives the weights to start from"
        )
        losses = train(trainer, batch, self.lr, LINEAR, 2)
        assert losses[1] < losses[0], f"from an earlier bake on the losses are {losses}"
        student = student_logprobs(trainer, batch)
        later = saved(trainer, backend, base, tmp_path / "later")
        self._check_same(
            model_logprobs(backend.load_adapter(base, later), batch),
            student,
            "what is saved is the student, the earlier bake included",
        )
        for unchanged in (backend.load_adapter(base, earlier), trained.snapshot().result()):
            logprobs = model_logprobs(unchanged, batch)
            self._check_same(logprobs, expected, "the earlier bake changes as the later one trains")

    @only_if("starts_from_checkpoint")
    def test_an_unfit_checkpoint_is_no_start(
        self, backend: Backend, base: Model, tmp_path: Path
    ) -> None:
        other_rank = backend.new_lora(base, rank=RANK // 2, seed=1)
        empty = tmp_path / "empty"
        empty.mkdir()
        for what, checkpoint in (
            ("another rank", saved(other_rank, backend, base, tmp_path / "other")),
            ("an empty folder", Checkpoint(backend.name, base.name, base.digest, str(empty))),
        ):
            self._check_no_start(backend, base, checkpoint, what)

    @only_if("starts_from_checkpoint", False)
    def test_starting_from_a_checkpoint_is_refused(
        self, backend: Backend, base: Model, batch: list[Example], tmp_path: Path
    ) -> None:
        trained = self._trained(backend, base, batch, steps=1)
        checkpoint = saved(trained, backend, base, tmp_path / "earlier")
        self._check_no_start(backend, base, checkpoint, "`starts_from_checkpoint` is False, and it")

    def _check_no_start(
        self, backend: Backend, base: Model, checkpoint: Checkpoint, what: str
    ) -> None:
        assert refuses(lambda: backend.new_lora(base, rank=RANK, seed=1, start=checkpoint), what), (
            f"{what} is accepted as `start`: raise BakeError"
        )


def written(state: Mapping[str, bytes], folder: Path) -> Path:
    """The folder with a state's files."""
    for name, content in state.items():
        (folder / name).write_bytes(content)
    return folder
