"""The part of the conformance suite for backends that is about what is saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import peft
import pytest

from promptbake.costs import NoBudget
from promptbake.distill.checkpoints import CHECKPOINT, read_adapter
from promptbake.files import write_json
from promptbake.interfaces import Backend, Model, Trainer
from promptbake.testing.backends.common import refuses
from promptbake.testing.backends.training_cases import (
    LINEAR,
    SLACK,
    ByValue,
    LessonTests,
    apart,
    scored,
    standing,
    train,
)
from promptbake.testing.keys import check_unseen, contents, everything_logged
from promptbake.types import Checkpoint, Example

STEPS = 3
OTHER_RANK = 2


class AdapterTests(LessonTests):
    """Of states, checkpoints and exported adapters."""

    def test_a_state_is_of_the_moment_at_which_it_was_asked_for(
        self, backend: Backend, base: Model, lesson: list[Example], tmp_path: Path
    ) -> None:
        trainer = self._fresh(backend, base)
        train(trainer, lesson, self.lr, LINEAR, STEPS)
        then = standing(trainer, lesson)
        state = trainer.save_state(STEPS)
        train(trainer, lesson, self.lr, LINEAR)
        again = self._fresh(backend, base)
        again.load_state(_written(state.result(), tmp_path))
        self._check_same(
            standing(again, lesson),
            then,
            "a state holds the weights as they were when it was asked for, and `load_state` puts "
            "them back",
        )

    def test_a_state_goes_on_as_if_nothing_had_happened(
        self, backend: Backend, base: Model, lesson: list[Example], tmp_path: Path
    ) -> None:
        whole, turned = self._fresh(backend, base), ByValue(LINEAR, sign=-1.0)
        train(whole, lesson, self.lr, LINEAR, STEPS)
        state = whole.save_state(STEPS).result()
        resumed = self._fresh(backend, base)
        resumed.load_state(_written(state, tmp_path))
        for trainer in (whole, resumed):
            train(trainer, lesson, self.lr, turned)  # another way: only the moments lead on
        away = apart(standing(resumed, lesson), standing(whole, lesson))
        moved = self._moved(whole, base, lesson)
        assert away <= SLACK / 2 * moved + self.tolerance, (
            f"one step after `load_state` the student is {away:.3g} nats from the one that was not "
            f"interrupted (the base model is {moved:.3g} away): a state holds Adam's moments and "
            "its count of steps, too"
        )

    def test_a_states_files_can_be_written(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        trainer = self._fresh(backend, base)
        train(trainer, lesson, self.lr, LINEAR)
        state = trainer.save_state(1).result()
        assert state, "a state has no files"
        for name, content in state.items():
            assert Path(name).name == name, f"a state's file is named {name!r}: no folders in it"
            assert isinstance(content, bytes), f"{name} is a {type(content).__name__}: bytes"

    def test_a_checkpoint_says_whose_it_is(
        self, backend: Backend, base: Model, lesson: list[Example], tmp_path: Path
    ) -> None:
        trainer = self._fresh(backend, base)
        train(trainer, lesson, self.lr, LINEAR)
        checkpoint = trainer.save_adapter(tmp_path)
        found = checkpoint.backend, checkpoint.base_model, checkpoint.base_digest
        assert found == (backend.name, base.name, base.digest), (
            f"backend, base_model and base_digest are {found}, expected "
            f"{(backend.name, base.name, base.digest)}: by them the core refuses an adapter of "
            "another backend or model"
        )
        texts = (checkpoint.uri, *checkpoint.details, *checkpoint.details.values())
        assert all(isinstance(text, str) for text in texts), (
            f"uri and details are {checkpoint.uri!r} and {checkpoint.details}: text, for JSON"
        )

    def test_a_checkpoint_outlives_the_name_of_its_folder(
        self, backend: Backend, base: Model, tmp_path: Path
    ) -> None:
        checkpoint = self._fresh(backend, base).save_adapter(tmp_path)
        assert str(tmp_path) not in checkpoint.uri, (
            f"`uri` is {checkpoint.uri!r}, the folder that was given: the core renames it when it "
            "is whole, so leave `uri` empty where the weights are in it"
        )

    def test_the_baked_model_is_the_student_that_was_saved(
        self,
        backend: Backend,
        base: Model,
        lesson: list[Example],
        model_name: str,
        tmp_path: Path,
    ) -> None:
        trainer = self._fresh(backend, base)
        train(trainer, lesson, self.lr, LINEAR, STEPS)
        expected, _ = standing(trainer, lesson), self._moved(trainer, base, lesson)
        checkpoint = _saved(trainer, backend, base, tmp_path / "adapter")
        for opened in (base, backend.open_model(model_name, NoBudget())):
            baked = backend.load_adapter(opened, checkpoint)
            self._check_same(
                scored(baked, lesson),
                expected,
                "the adapter that was saved is not the one that answers after loading",
            )

    def test_base_and_baked_models_answer_side_by_side(
        self, backend: Backend, base: Model, lesson: list[Example], tmp_path: Path
    ) -> None:
        start = scored(base, lesson)
        first = self._baked(backend, base, lesson, tmp_path / "first")
        one = backend.load_adapter(base, first)
        expected = scored(one, lesson)
        second = self._baked(backend, base, lesson, tmp_path / "second", seed=2, steps=1)
        other = scored(backend.load_adapter(base, second), lesson)
        assert apart(other, expected) > self.tolerance, "another adapter answers as the first did"
        self._check_same(scored(base, lesson), start, "the base model is another after loading")
        self._check_same(
            scored(one, lesson), expected, "a baked model is another after the next one is loaded"
        )

    def test_the_baked_model_is_known_by_its_base_model(
        self, backend: Backend, base: Model, lesson: list[Example], tmp_path: Path
    ) -> None:
        baked = backend.load_adapter(base, self._baked(backend, base, lesson, tmp_path / "adapter"))
        for what in ("name", "digest", "context_tokens", "full_vocabulary"):
            found, expected = getattr(baked, what), getattr(base, what)
            assert found == expected, f"the baked model's `{what}` is {found!r}, not {expected!r}"

    def test_what_is_no_adapter_is_refused(
        self, backend: Backend, base: Model, lesson: list[Example], tmp_path: Path
    ) -> None:
        self._baked(backend, base, lesson, tmp_path / "adapter")
        empty = tmp_path / "empty"
        empty.mkdir()
        nothing = Checkpoint(backend.name, base.name, base.digest, str(empty))
        assert refuses(
            lambda: scored(backend.load_adapter(base, nothing), lesson), "an empty folder"
        ), "an empty folder is loaded as an adapter, and answers: raise BakeError"

    def test_an_adapter_comes_home_in_pefts_format(
        self, backend: Backend, base: Model, lesson: list[Example], tmp_path: Path
    ) -> None:
        trainer = backend.new_lora(base, rank=OTHER_RANK, seed=1)
        train(trainer, lesson, self.lr, LINEAR)
        checkpoint = _saved(trainer, backend, base, tmp_path / "adapter")
        home = tmp_path / "home"
        home.mkdir()
        if refuses(lambda: backend.export(base, checkpoint, home), "export"):
            assert not self.exports, "`exports` is True, and `export` refuses by BakeError"
            return
        assert self.exports, "`exports` is False, and `export` does not refuse by BakeError"
        found = sorted(path.name for path in home.iterdir())
        assert "adapter_config.json" in found, f"there is no adapter_config.json, but {found}"
        config = peft.PeftConfig.from_pretrained(str(home))
        assert config.r == OTHER_RANK, f"adapter_config.json has r = {config.r}, not {OTHER_RANK}"
        weights = peft.load_peft_weights(str(home), device="cpu")
        ups = [part for name, part in weights.items() if "lora_B" in name]
        downs = [part for name, part in weights.items() if "lora_A" in name]
        assert len(ups) == len(downs) > 0, f"{len(ups)} B and {len(downs)} A, of {list(weights)}"
        ranks = {part.shape[1] for part in ups} | {len(part) for part in downs}
        assert ranks == {OTHER_RANK}, f"the weights have rank {ranks}, expected {OTHER_RANK}"
        assert any(bool(part.any()) for part in ups), (
            "every B is zeros: these are not the weights that were trained"
        )

    def test_no_key_is_seen(
        self,
        backend: Backend,
        lesson: list[Example],
        model_name: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        if not self.keys:
            pytest.skip("`keys` names no environment variable")
        with everything_logged(caplog):
            base = backend.open_model(model_name, NoBudget())
            trainer = self._fresh(backend, base)
            train(trainer, lesson, self.lr, LINEAR)
            _written(trainer.save_state(1).result(), tmp_path)
            checkpoint = _saved(trainer, backend, base, tmp_path / "adapter")
            baked = backend.load_adapter(base, checkpoint)
            scored(baked, lesson)
        things = backend, base, base.digest, trainer, checkpoint, baked
        check_unseen(
            self.keys,
            {
                "the log": caplog.text,
                "what is printed": "".join(capfd.readouterr()),
                **{f"the repr of {type(thing).__name__}": repr(thing) for thing in things},
                **contents(tmp_path),
            },
        )

    def _baked(
        self,
        backend: Backend,
        base: Model,
        lesson: list[Example],
        folder: Path,
        seed: int = 1,
        steps: int = STEPS,
    ) -> Checkpoint:
        """A trained adapter, saved and read back as the core does it."""
        trainer = self._fresh(backend, base, seed)
        train(trainer, lesson, self.lr, LINEAR, steps)
        return _saved(trainer, backend, base, folder)


def _saved(trainer: Trainer, backend: Backend, base: Model, folder: Path) -> Checkpoint:
    """Written into a folder that is then renamed, with its record, as the core does it."""
    scratch = folder.with_name("scratch")
    scratch.mkdir()
    write_json(scratch / CHECKPOINT, vars(trainer.save_adapter(scratch)))
    scratch.rename(folder)
    return read_adapter(folder, backend.name, base)


def _written(state: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in state.items():
        (folder / name).write_bytes(content)
    return folder
