"""KL(arm || prompted) on the arm's own responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from promptbake import (
    Arm,
    Conversation,
    EvalArm,
    EvalContext,
    Evaluator,
    Measurement,
    Message,
    Model,
    Prompt,
    Span,
)
from promptbake.testing import EvaluatorSuite
from promptbake_fidelity import reverse_kl
from promptbake_mock.tiny import NAME, tiny_backend

PIRATE = Prompt("pirate", "Answer like a pirate who has lost his map, his ship and his parrot.")


class TestReverseKL(EvaluatorSuite):
    measured_arms = ("base", "baked")
    compared_with = ("prompted",)

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return reverse_kl(items=2, max_tokens=4)


def given(baked_system: str | None, model: Any = None, queries: int = 3) -> EvalContext:
    """The tiny model in every arm; two conversations of each query."""
    opened = model or tiny_backend().open_model(NAME)
    systems: dict[Arm, str | None] = {
        "base": None, "prompted": PIRATE.text, "baked": baked_system, "reprompted": PIRATE.text
    }  # fmt: skip
    held_out = tuple(
        Conversation(
            f"c{n}", f"q{n // 2}", (Message("user", f"{n // 2}?"), Message("assistant", "A"))
        )
        for n in range(2 * queries)
    )
    arms = {arm: EvalArm(system, lambda: opened) for arm, system in systems.items()}
    return EvalContext(PIRATE, (), arms, held_out)


def test_an_arm_that_is_the_prompted_model_is_at_0_and_one_that_is_not_baked_is_bases() -> None:
    (prompted,) = reverse_kl(max_tokens=6).evaluate(given(PIRATE.text))
    assert prompted.scores["baked"] == pytest.approx(
        dict.fromkeys(("q0", "q1", "q2"), 0.0), abs=1e-6
    )
    assert min(prompted.scores["base"].values()) > 0.01
    (unbaked,) = reverse_kl(max_tokens=6).evaluate(given(None))
    assert unbaked.scores["baked"] == unbaked.scores["base"] == prompted.scores["base"]
    (fewer,) = reverse_kl(items=2, max_tokens=6).evaluate(given(None))
    assert len(fewer.scores["base"]) == 2


class TopK:
    """A model without its whole vocabulary."""

    full_vocabulary = False

    def __init__(self) -> None:
        self._inner = tiny_backend().open_model(NAME)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def logprobs(self, spans: Sequence[Span], ids: Sequence[Tensor]) -> Iterator[Tensor]:
        return self._inner.logprobs(spans, ids)


def test_the_top_k_with_a_bucket_is_a_lower_bound() -> None:
    (whole,) = reverse_kl(max_tokens=6).evaluate(given(None))
    (bound,) = reverse_kl(max_tokens=6).evaluate(given(None, TopK()))
    for query, nats in whole.scores["base"].items():
        assert 0 < bound.scores["base"][query] <= nats + 1e-6


def test_the_estimate_knows_how_often_the_models_are_asked() -> None:
    usage = reverse_kl(items=2, max_tokens=5).estimate_cost(given(None)).usage
    assert usage.calls == 2 * 2 + 2 * 2 + 2 * 2  # sampling, its arm, the prompted model
    assert usage.output_tokens == 4 * 5
    bare = replace(given(None), held_out=())
    assert reverse_kl(items=2, max_tokens=5).estimate_cost(bare).usage.calls == usage.calls
    assert reverse_kl(items=2, max_tokens=5).estimate_cost(given(None, TopK())).usage.calls == 12


def test_a_second_time_nothing_is_measured(tmp_path: Path) -> None:
    def measured(baked: str) -> tuple[list[str], Measurement]:
        calls = list[str]()
        model = Counting(tiny_backend().open_model(NAME), calls)
        context = given(None, model)
        weights: dict[Arm, str] = {"baked": baked, "reprompted": baked}
        arms = {
            arm: replace(each, weights=weights.get(arm, "w")) for arm, each in context.arms.items()
        }
        (result,) = reverse_kl(max_tokens=6).evaluate(replace(context, arms=arms, cache=tmp_path))
        return calls, result

    first, result = measured("one")
    assert first.count("sample") == 2
    assert measured("one") == ([], result)
    another, _ = measured("two")  # base's responses and their KL are there
    assert another.count("sample") == 1


class Counting:
    """A model that notes which of its methods were called."""

    def __init__(self, inner: Model, calls: list[str]) -> None:
        self._inner, self._calls = inner, calls

    def __getattr__(self, name: str) -> Any:
        if name in ("sample", "logprobs", "top_k"):
            self._calls.append(name)
        return getattr(self._inner, name)
