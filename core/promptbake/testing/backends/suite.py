"""The conformance suite for backends."""

from __future__ import annotations

from pathlib import Path

from promptbake.costs import NoBudget
from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.adapters import AdapterTests
from promptbake.testing.backends.common import (
    BackendTests,
    refuses,
    response_spans,
    score,
    some_ids,
)
from promptbake.testing.backends.costs import CostTests
from promptbake.testing.backends.renderers import RendererTests
from promptbake.testing.backends.samples import SampleTests
from promptbake.testing.backends.scores import ScoringTests
from promptbake.testing.backends.states import StateTests
from promptbake.testing.backends.top_k import TopKTests
from promptbake.testing.backends.trainers import TrainerTests
from promptbake.testing.suite import only_if

COARSEST = 0.1  # nats: about what bfloat16 does


class OpeningTests(BackendTests):
    """Of the backend itself."""

    def test_its_flags_are_strict_enough(self) -> None:
        assert 0 <= self.tolerance <= COARSEST, f"`tolerance`: {COARSEST} nats at most"
        assert self.lr > 0, f"`lr` is {self.lr}"

    def test_it_has_a_name(self, backend: Backend) -> None:
        assert isinstance(backend.name, str), f"`name` is {backend.name!r}"
        assert backend.name, "`name` is empty: it is what `train.backend` says"

    def test_a_model_is_the_same_when_it_is_opened_again(
        self, backend: Backend, base: Model, model_name: str
    ) -> None:
        again = backend.open_model(model_name, NoBudget())
        assert base.digest, "`digest` is empty"
        assert again.digest == base.digest, (
            f"`digest` is {base.digest!r} and then {again.digest!r} of the same model: no run "
            "could resume, since it would take it for another"
        )
        spans = response_spans(base)
        ids = some_ids(base, spans, 3)
        for logprobs, expected in zip(
            score(again, spans, ids), score(base, spans, ids), strict=True
        ):
            self._check_same(logprobs, expected, "the same model, opened twice")

    @only_if("other_model_name")
    def test_another_model_has_another_digest(
        self, backend: Backend, base: Model, other_model_name: str
    ) -> None:
        other = backend.open_model(other_model_name, NoBudget())
        assert other.digest != base.digest, (
            "two models have one digest: it changes when the weights do"
        )

    @only_if("takes_any_name")
    def test_any_name_opens_the_one_model(
        self, backend: Backend, base: Model, tmp_path: Path
    ) -> None:
        name = str(tmp_path / "no-such-model")
        assert backend.open_model(name, NoBudget()).digest == base.digest, (
            "`takes_any_name` is True, and another name gives another model"
        )

    @only_if("takes_any_name", False)
    def test_an_unknown_model_is_refused(self, backend: Backend, tmp_path: Path) -> None:
        name = str(tmp_path / "no-such-model")
        assert refuses(lambda: backend.open_model(name, NoBudget()), "an unknown model"), (
            f"{name!r} is opened as a model: raise BakeError, or set `takes_any_name = True`"
        )


class BackendSuite(
    OpeningTests,
    RendererTests,
    ScoringTests,
    TopKTests,
    SampleTests,
    TrainerTests,
    StateTests,
    AdapterTests,
    CostTests,
):
    """Fixture `backend`: the backend, able to open a small model.

    A scope wider than a function lets the tests share one base model; everything else is theirs
    alone. `model_name` is what is opened, "tiny" unless you override it; `other_model_name` a
    fixture with a model of other weights, if there is one.

    - `tolerance`, in nats: how far rounding may take a log-probability; 0.1 at most.
    - `lr`: a learning rate at which a LoRA of rank 4 learns within a few steps.
    - `paid = True`: work is billed, and reserved in the budget first.
    - `exports = False`: adapters cannot be exported; `export` raises BakeError.
    - `scales_adapters = False`: adapters load at one strength; another raises BakeError.
    - `scales_exports = False`: adapters export at one strength; another raises BakeError.
    - `starts_from_checkpoint = False`: a LoRA is always fresh; `start` raises BakeError.
    - `takes_any_name = True`: there is one model, which opens under every name.
    - `keys`: the environment variables that hold its keys. Set them in a fixture.
    """
