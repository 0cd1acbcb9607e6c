"""The conformance suite for backends."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptbake.costs import NoBudget
from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.adapters import AdapterTests
from promptbake.testing.backends.common import BackendTests, ask, refuses, response_spans, some_ids
from promptbake.testing.backends.costs import AccountTests
from promptbake.testing.backends.renderers import RendererTests
from promptbake.testing.backends.samples import SampleTests
from promptbake.testing.backends.scores import ScoringTests
from promptbake.testing.backends.targets import TargetTests
from promptbake.testing.backends.trainers import TrainerTests

COARSEST = 0.1  # nats: about what bfloat16 does


class OpeningTests(BackendTests):
    """Of the backend itself."""

    def test_its_flags_let_mistakes_be_seen(self) -> None:
        assert 0 <= self.tolerance <= COARSEST, (
            f"`tolerance` is {self.tolerance} nats: more than {COARSEST} would hide mistakes"
        )
        assert self.lr > 0, f"`lr` is {self.lr}"

    def test_it_has_the_name_that_it_is_offered_under(self, backend: Backend) -> None:
        assert isinstance(backend.name, str), f"`name` is {backend.name!r}"
        assert backend.name, "`name` is empty: it is what `train.backend` says"

    def test_a_model_is_the_same_when_it_is_opened_again(
        self, backend: Backend, base: Model, model_name: str
    ) -> None:
        again = backend.open_model(model_name, NoBudget())
        assert base.digest, "`digest` is empty"
        assert again.digest == base.digest, (
            f"`digest` is {base.digest!r} and then {again.digest!r} of the same model: a run "
            "would never go on, since it takes it for another"
        )
        spans = response_spans(base)
        ids = some_ids(base, spans, 3)
        for found, expected in zip(ask(again, spans, ids), ask(base, spans, ids), strict=True):
            self._check_same(found, expected, "the same model, opened twice")

    def test_another_model_has_another_digest(
        self, backend: Backend, base: Model, other_model_name: str | None
    ) -> None:
        if other_model_name is None:
            pytest.skip("`other_model_name` gives none")
        other = backend.open_model(other_model_name, NoBudget())
        assert other.digest != base.digest, (
            f"two models have the digest {base.digest!r}: it changes when the weights do"
        )

    def test_what_is_no_model_is_refused(
        self, backend: Backend, base: Model, tmp_path: Path
    ) -> None:
        name = str(tmp_path / "no-such-model")
        opened: list[Model] = []
        if refuses(lambda: opened.append(backend.open_model(name, NoBudget())), "no model"):
            assert not self.takes_any_name, f"`takes_any_name` is True, and {name!r} is refused"
            return
        assert self.takes_any_name, (
            f"{name!r} is opened as a model: raise BakeError for what is none"
        )
        assert opened[0].digest == base.digest, (
            "`takes_any_name` is True, and another name gives another model"
        )


class BackendSuite(
    OpeningTests,
    RendererTests,
    ScoringTests,
    TargetTests,
    SampleTests,
    TrainerTests,
    AdapterTests,
    AccountTests,
):
    """Fixture `backend`: the backend, able to open a small model.

    A scope wider than a function lets the tests share one base model; everything else is theirs
    alone. `model_name` is what is opened, "tiny" unless you override it; `other_model_name` a model
    with other weights, if there is one.

    - `tolerance`, in nats: how far rounding may take a log-probability; 0.1 at most.
    - `lr`: a learning rate at which a LoRA of rank 4 learns within a few steps.
    - `paid = True`: work is billed, and held against the budget first.
    - `exports = False`: adapters cannot be brought home; `export` raises BakeError.
    - `takes_any_name = True`: there is one model, which opens under every name.
    - `keys`: the environment variables that hold its keys. Set them in a fixture.
    """
