"""The part of the conformance suite for backends about adapters that are saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from promptbake.costs import NoBudget
from promptbake.distill.checkpoints import CHECKPOINT, read_adapter
from promptbake.files import write_json
from promptbake.interfaces import Backend, Model, Trainer
from promptbake.testing.backends.common import refuses
from promptbake.testing.backends.training_cases import (
    LINEAR,
    TrainingTests,
    distance,
    model_logprobs,
    student_logprobs,
    train,
)
from promptbake.testing.keys import check_unseen, contents, everything_logged
from promptbake.testing.suite import only_if
from promptbake.types import Checkpoint, Example

OTHER_RANK = 2
HALF_LEAST, HALF_MOST = 0.35, 0.65  # of the way to the baked model, at strength 0.5


class AdapterTests(TrainingTests):
    """Of `save_adapter`, `load_adapter` and `export`."""

    @pytest.fixture
    def checkpoint(
        self, backend: Backend, base: Model, batch: list[Example], tmp_path: Path
    ) -> Checkpoint:
        """A trained adapter, saved and read back as the core does it."""
        trainer = backend.new_lora(base, rank=OTHER_RANK, seed=1)
        train(trainer, batch, self.lr, LINEAR)
        return saved(trainer, backend, base, tmp_path / "adapter")

    def test_a_checkpoint_names_its_backend_and_its_model(
        self, backend: Backend, base: Model, tmp_path: Path
    ) -> None:
        checkpoint = self._fresh(backend, base).save_adapter(tmp_path)
        names = checkpoint.backend, checkpoint.base_model, checkpoint.base_digest
        assert names == (backend.name, base.name, base.digest), (
            f"backend, base_model and base_digest are {names}, expected "
            f"{(backend.name, base.name, base.digest)}: by them the core refuses an adapter of "
            "another backend or model"
        )
        texts = (checkpoint.uri, *checkpoint.details, *checkpoint.details.values())
        assert all(isinstance(text, str) for text in texts), (
            f"uri and details are {checkpoint.uri!r} and {checkpoint.details}: text, for JSON"
        )
        assert str(tmp_path) not in checkpoint.uri, (
            f"`uri` is {checkpoint.uri!r}, the folder that was given: the core renames it when it "
            "is whole, so leave `uri` empty where the weights are in it"
        )

    def test_the_baked_model_is_the_student_that_was_saved(
        self,
        backend: Backend,
        base: Model,
        batch: list[Example],
        model_name: str,
        tmp_path: Path,
    ) -> None:
        trainer = self._trained(backend, base, batch)
        self._distance_from_base(trainer, base, batch)
        expected = student_logprobs(trainer, batch)
        checkpoint = saved(trainer, backend, base, tmp_path / "adapter")
        for opened in (base, backend.open_model(model_name, NoBudget())):
            self._check_same(
                model_logprobs(backend.load_adapter(opened, checkpoint), batch),
                expected,
                "the adapter that was saved is not the one that answers after loading",
            )

    def test_base_and_baked_models_answer_side_by_side(
        self,
        backend: Backend,
        base: Model,
        batch: list[Example],
        checkpoint: Checkpoint,
        tmp_path: Path,
    ) -> None:
        before = model_logprobs(base, batch)
        first = backend.load_adapter(base, checkpoint)
        expected = model_logprobs(first, batch)
        trainer = self._trained(backend, base, batch, seed=2, steps=1)
        other = backend.load_adapter(base, saved(trainer, backend, base, tmp_path / "other"))
        assert distance(model_logprobs(other, batch), expected) > self.tolerance, (
            "another adapter answers as the first one did"
        )
        self._check_same(model_logprobs(base, batch), before, "loading changes the base model")
        self._check_same(
            model_logprobs(first, batch), expected, "loading changes the model baked before"
        )

    def test_a_baked_model_has_its_base_models_name_and_digest(
        self, backend: Backend, base: Model, checkpoint: Checkpoint
    ) -> None:
        baked = backend.load_adapter(base, checkpoint)
        for what in ("name", "digest", "context_tokens", "full_vocabulary"):
            value, expected = getattr(baked, what), getattr(base, what)
            assert value == expected, f"the baked model's `{what}` is {value!r}, not {expected!r}"

    def test_a_folder_without_an_adapter_is_refused(
        self,
        backend: Backend,
        base: Model,
        batch: list[Example],
        checkpoint: Checkpoint,
        tmp_path: Path,
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        nothing = Checkpoint(backend.name, base.name, base.digest, str(empty))
        assert refuses(
            lambda: model_logprobs(backend.load_adapter(base, nothing), batch), "an empty folder"
        ), "an empty folder is loaded as an adapter, and answers: raise BakeError"

    @only_if("scales_adapters")
    def test_strength_scales_the_change_of_the_weights(
        self, backend: Backend, base: Model, batch: list[Example], checkpoint: Checkpoint
    ) -> None:
        start, baked = model_logprobs(base, batch), backend.load_adapter(base, checkpoint)
        full = model_logprobs(baked, batch)
        at_strength = {
            strength: model_logprobs(
                backend.load_adapter(base, checkpoint, strength=strength), batch
            )
            for strength in (1.0, 0.5, 0.0)
        }
        self._check_same(at_strength[0.0], start, "at strength 0 it is the base model")
        self._check_same(at_strength[1.0], full, "at strength 1 it is the baked model")
        change = (full - start).double()
        share = ((at_strength[0.5] - start) * change).sum() / change.square().sum()
        assert HALF_LEAST < share < HALF_MOST, (
            f"at strength 0.5 it has {share:.0%} of the baked model's change: scale B @ A once"
        )
        for model, expected in ((base, start), (baked, full)):
            logprobs = model_logprobs(model, batch)
            self._check_same(logprobs, expected, "another model changes with the strength of one")

    @only_if("scales_adapters", False)
    def test_another_strength_is_refused(
        self,
        backend: Backend,
        base: Model,
        batch: list[Example],
        checkpoint: Checkpoint,
        tmp_path: Path,
    ) -> None:
        home = tmp_path / "exported"
        home.mkdir()
        for what, call in {
            "load_adapter": lambda: model_logprobs(
                backend.load_adapter(base, checkpoint, strength=0.5), batch
            ),
            "export": lambda: backend.export(base, checkpoint, home, strength=0.5),
        }.items():
            assert refuses(call, what), (
                f"`scales_adapters` is False, and `{what}` takes a strength of 0.5: raise BakeError"
            )

    @only_if("exports")
    def test_an_adapter_is_exported_in_pefts_format(
        self, backend: Backend, base: Model, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        whole = self._exported(backend, base, checkpoint, tmp_path / "whole", strength=1.0)
        assert any(bool(change.any()) for change in whole.values()), (
            "every B is zeros: these are not the weights that were trained"
        )
        if self.scales_adapters:
            half = self._exported(backend, base, checkpoint, tmp_path / "half", strength=0.5)
            assert half.keys() == whole.keys(), "at another strength, other layers are exported"
            for layer, change in whole.items():
                assert distance(half[layer], 0.5 * change) <= 1e-2 * change.abs().mean(), (
                    f"exported at strength 0.5, B @ A of {layer} is not half of what it is at 1"
                )

    @only_if("exports", False)
    def test_export_is_refused(
        self, backend: Backend, base: Model, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        home = tmp_path / "exported"
        home.mkdir()
        assert refuses(lambda: backend.export(base, checkpoint, home), "export"), (
            "`exports` is False, and `export` does not refuse by BakeError"
        )

    @only_if("keys")
    def test_no_key_is_seen(
        self,
        backend: Backend,
        batch: list[Example],
        model_name: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        with everything_logged(caplog):
            base = backend.open_model(model_name, NoBudget())
            trainer = self._trained(backend, base, batch, steps=1)
            state = trainer.save_state(1).result()
            checkpoint = saved(trainer, backend, base, tmp_path / "adapter")
            baked = backend.load_adapter(base, checkpoint)
            model_logprobs(baked, batch)
        objects = backend, base, base.digest, trainer, checkpoint, baked
        check_unseen(
            self.keys,
            {
                "the log": caplog.text,
                "what is printed": "".join(capfd.readouterr()),
                **{f"the repr of {type(each).__name__}": repr(each) for each in objects},
                **state,
                **contents(tmp_path),
            },
        )

    def _exported(
        self, backend: Backend, base: Model, checkpoint: Checkpoint, folder: Path, strength: float
    ) -> dict[str, Tensor]:
        """What an exported adapter adds to the weights of each layer."""
        import peft

        folder.mkdir()
        backend.export(base, checkpoint, folder, strength=strength)
        files = sorted(path.name for path in folder.iterdir())
        assert "adapter_config.json" in files, f"there is no adapter_config.json, but {files}"
        config = peft.PeftConfig.from_pretrained(str(folder))
        assert config.r == OTHER_RANK, f"adapter_config.json has r = {config.r}, not {OTHER_RANK}"
        weights = peft.load_peft_weights(str(folder), device="cpu")
        downs = {name: part for name, part in weights.items() if "lora_A" in name}
        ups = {
            name.replace("lora_B", "lora_A"): w for name, w in weights.items() if "lora_B" in name
        }
        assert ups.keys() == downs.keys(), f"not each A has a B: {list(weights)}"
        assert ups, f"no A and no B: {list(weights)}"
        ranks = {part.shape[1] for part in ups.values()} | {len(part) for part in downs.values()}
        assert ranks == {OTHER_RANK}, f"the weights have rank {ranks}, expected {OTHER_RANK}"
        scaling = config.lora_alpha / config.r
        return {name: scaling * ups[name].float() @ down.float() for name, down in downs.items()}


def saved(trainer: Trainer, backend: Backend, base: Model, folder: Path) -> Checkpoint:
    """An adapter written into a folder that is then renamed, with its record, as the core does."""
    scratch = folder.with_name("scratch")
    scratch.mkdir()
    write_json(scratch / CHECKPOINT, vars(trainer.save_adapter(scratch)))
    scratch.rename(folder)
    return read_adapter(folder, backend.name, base)
