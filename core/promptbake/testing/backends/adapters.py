"""The part of the conformance suite for backends about adapters that are saved and loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor

from promptbake.costs import NoBudget
from promptbake.interfaces import Backend
from promptbake.testing.backends.common import refuses
from promptbake.testing.backends.training_cases import Training, TrainingTests, distance
from promptbake.testing.keys import check_unseen, contents, everything_logged
from promptbake.testing.suite import only_if
from promptbake.types import Checkpoint

OTHER_RANK = 2
HALF_LEAST, HALF_MOST = 0.35, 0.65  # of the way to the baked model, at strength 0.5


class AdapterTests(TrainingTests):
    """Of `save_adapter`, `load_adapter` and `export`."""

    @pytest.fixture
    def checkpoint(self, training: Training) -> Checkpoint:
        """A trained adapter, saved and read back as the core does it."""
        return training.saved(training.trained(steps=1, rank=OTHER_RANK))

    def test_a_checkpoint_names_its_backend_and_its_model(self, training: Training) -> None:
        checkpoint = training.fresh().save_adapter(training.folder)
        names = checkpoint.backend, checkpoint.base_model, checkpoint.base_digest
        expected = training.backend.name, training.base.name, training.base.digest
        assert names == expected, (
            f"backend, base_model and base_digest are {names}, expected {expected}: by them the "
            "core refuses an adapter of another backend or model"
        )
        texts = (checkpoint.uri, *checkpoint.details, *checkpoint.details.values())
        assert all(isinstance(text, str) for text in texts), (
            f"uri and details are {checkpoint.uri!r} and {checkpoint.details}: text, for JSON"
        )
        assert str(training.folder) not in checkpoint.uri, (
            f"`uri` is {checkpoint.uri!r}, the folder that was given: the core renames it when it "
            "is whole, so leave `uri` empty where the weights are in it"
        )

    def test_the_baked_model_is_the_student_that_was_saved(
        self, training: Training, model_name: str
    ) -> None:
        trainer = training.trained()
        training.distance_from_base(trainer)
        expected = training.of_student(trainer)
        checkpoint = training.saved(trainer)
        for base in (training.base, training.backend.open_model(model_name, NoBudget())):
            self._check_same(
                training.of(training.backend.load_adapter(base, checkpoint)),
                expected,
                "the adapter that was saved is not the one that answers after loading",
            )

    def test_base_and_baked_models_answer_side_by_side(
        self, training: Training, checkpoint: Checkpoint
    ) -> None:
        before = training.of(training.base)
        baked = training.backend.load_adapter(training.base, checkpoint)
        expected = training.of(baked)
        other = training.load(training.saved(training.trained(steps=2, seed=2), "other"))
        assert distance(other, expected) > self.tolerance, "another adapter answers as the first"
        for model, logprobs in ((training.base, before), (baked, expected)):
            self._check_same(training.of(model), logprobs, "loading one changes another model")

    def test_a_baked_model_has_its_base_models_name_and_digest(
        self, training: Training, checkpoint: Checkpoint
    ) -> None:
        baked = training.backend.load_adapter(training.base, checkpoint)
        for what in ("name", "digest", "context_tokens", "full_vocabulary"):
            value, expected = getattr(baked, what), getattr(training.base, what)
            assert value == expected, f"the baked model's `{what}` is {value!r}, not {expected!r}"

    def test_a_folder_without_an_adapter_is_refused(
        self, training: Training, checkpoint: Checkpoint
    ) -> None:
        assert refuses(lambda: training.load(training.no_adapter()), "an empty folder"), (
            "an empty folder is loaded as an adapter, and answers: raise BakeError"
        )

    @only_if("scales_adapters")
    def test_strength_scales_the_change_of_the_weights(
        self, training: Training, checkpoint: Checkpoint
    ) -> None:
        start = training.of(training.base)
        baked = training.backend.load_adapter(training.base, checkpoint)
        expected = training.of(baked)
        whole, half, none = (training.load(checkpoint, strength) for strength in (1.0, 0.5, 0.0))
        self._check_same(none, start, "at strength 0 it is the base model")
        self._check_same(whole, expected, "at strength 1 it is the baked model")
        change = (expected - start).double()
        share = ((half - start) * change).sum() / change.square().sum()
        assert HALF_LEAST < share < HALF_MOST, (
            f"at strength 0.5 it has {share:.0%} of the baked model's change: scale B @ A once"
        )
        for model, logprobs in ((training.base, start), (baked, expected)):
            self._check_same(training.of(model), logprobs, "the strength of one changes another")

    @only_if("scales_adapters", False)
    def test_another_strength_is_refused(self, training: Training, checkpoint: Checkpoint) -> None:
        assert refuses(lambda: training.load(checkpoint, 0.5), "load_adapter"), (
            "`scales_adapters` is False, and it loads at a strength of 0.5: raise BakeError"
        )

    @only_if("scales_exports", False)
    def test_another_strength_is_not_exported(
        self, training: Training, checkpoint: Checkpoint
    ) -> None:
        def export() -> None:
            folder = training.empty("exported")
            training.backend.export(training.base, checkpoint, folder, strength=0.5)

        assert refuses(export, "export"), (
            "`scales_exports` is False, and it exports at a strength of 0.5: raise BakeError"
        )

    @only_if("exports")
    def test_an_adapter_is_exported_in_pefts_format(
        self, training: Training, checkpoint: Checkpoint
    ) -> None:
        whole = _exported(training, checkpoint, 1.0)
        assert any(bool(change.any()) for change in whole.values()), (
            "every B is zeros: these are not the weights that were trained"
        )
        for strength in (0.5,) if self.scales_exports else ():
            scaled = _exported(training, checkpoint, strength)
            assert scaled.keys() == whole.keys(), "at another strength, it exports other layers"
            for layer, change in whole.items():
                away = distance(scaled[layer], strength * change)
                assert away <= 1e-2 * change.abs().mean(), f"{layer} is not scaled by {strength}"

    @only_if("exports", False)
    def test_export_is_refused(self, training: Training, checkpoint: Checkpoint) -> None:
        folder = training.empty("exported")
        assert refuses(
            lambda: training.backend.export(training.base, checkpoint, folder), "export"
        ), "`exports` is False, and `export` does not refuse by BakeError"

    @only_if("keys")
    def test_no_key_is_seen(
        self,
        backend: Backend,
        model_name: str,
        training: Training,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        with everything_logged(caplog):
            base = backend.open_model(model_name, NoBudget())
            training = replace(training, base=base)
            trainer = training.trained(steps=1)
            state = trainer.save_state(1).result()
            checkpoint = training.saved(trainer)
            baked = backend.load_adapter(base, checkpoint)
            training.of(baked)
        objects = backend, base, base.digest, trainer, checkpoint, baked
        check_unseen(
            self.keys,
            {
                "the log": caplog.text,
                "what is printed": "".join(capfd.readouterr()),
                **{f"the repr of {type(each).__name__}": repr(each) for each in objects},
                **state,
                **contents(training.folder),
            },
        )


def _exported(training: Training, checkpoint: Checkpoint, strength: float) -> dict[str, Tensor]:
    """What an exported adapter adds to the weights of each layer."""
    import peft

    folder = training.empty(f"exported-{strength}")
    training.backend.export(training.base, checkpoint, folder, strength=strength)
    files = sorted(path.name for path in folder.iterdir())
    assert "adapter_config.json" in files, f"there is no adapter_config.json, but {files}"
    config = peft.PeftConfig.from_pretrained(str(folder))
    assert config.r == OTHER_RANK, f"adapter_config.json has r = {config.r}, not {OTHER_RANK}"
    weights = peft.load_peft_weights(str(folder), device="cpu")
    downs = {name: weight for name, weight in weights.items() if "lora_A" in name}
    ups = {name: weights.get(name.replace("lora_A", "lora_B")) for name in downs}
    assert ups, f"no layer has a LoRA: {list(weights)}"
    scaling, changes = config.lora_alpha / config.r, {}
    for name, up in ups.items():
        assert up is not None, f"{name} has no B: {list(weights)}"
        ranks = len(downs[name]), up.shape[1]
        assert ranks == (OTHER_RANK, OTHER_RANK), f"{name} and its B have ranks {ranks}"
        changes[name] = scaling * up.float() @ downs[name].float()
    return changes
