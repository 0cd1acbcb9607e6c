"""The warnings of a report: each where it applies, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from verify_example import RESULT

from promptbake.report.cautions import cautions
from promptbake.report.measured import MeasurementResult
from promptbake.report.verify_result import VerifyResult
from promptbake.types import Measurement

SOUND = RESULT.model_copy(
    update={
        "origin": None,
        "verdict": RESULT.verdict.model_copy(update={"margins_changed": []}),
        "evaluators": {},
    }
)
HONEST = {"tokens": 1000, "nll": 2.0, "expected_nll": 2.05, "standard_error": 0.05}


def changed(part: str, **changes: Any) -> VerifyResult:
    """A sound result with some of one part changed."""
    return SOUND.model_copy(update={part: getattr(SOUND, part).model_copy(update=changes)})


def record(**stages: Any) -> dict[str, Any]:
    return {"stages": stages, "config": {"data": {"max_tokens": 48}}}


def trained(conversations: int, cut: int) -> VerifyResult:
    """A sound result of a training on this many conversations."""
    assert RESULT.origin is not None
    origin = RESULT.origin.model_copy(update={"conversations": conversations, "cut": cut})
    return SOUND.model_copy(update={"origin": origin})


def check(base: int, prompted: int, name: str = "says arr") -> VerifyResult:
    """A sound result with a check of ten answers."""
    scores = {
        arm: {str(n): float(n < count) for n in range(10)}
        for arm, count in (("base", base), ("prompted", prompted), ("baked", prompted))
    }
    measurement = Measurement(name, "share", scores)  # type: ignore[arg-type]
    return SOUND.model_copy(update={"evaluators": {name: MeasurementResult.of(measurement)}})


def measured_kl(baked: float) -> VerifyResult:
    """A sound result with a set on which base has 1 nat per token."""
    scores = {"base": {"a": 1.0, "b": 1.0}, "baked": {"a": baked, "b": baked * 1.1}}
    measurement = Measurement("shift.code", "nats/token", scores)  # type: ignore[arg-type]
    each = MeasurementResult.of(measurement)
    return SOUND.model_copy(update={"evaluators": {"shift.code": each}})


def test_a_sound_run_has_no_warning() -> None:
    sound = record(
        data={"conversations": 70, "held_out": 15, "rejected": 2},
        bake={"steps": 36, "sampling": {"1": HONEST}},
    )
    assert cautions(trained(9, cut=1), sound) == []
    assert cautions(measured_kl(0.9), {}) == []
    assert cautions(check(base=0, prompted=9), {}) == []
    assert cautions(check(base=5, prompted=5, name="retention.choice"), {}) == []


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (changed("kl", base=0.128), "barely changes this model (0.128 nats per token"),
        (changed("kl", kind="top_k_bucket"), "The KL is a lower bound"),
        (changed("held_out", queries=1), "1 held-out query is few"),
        (changed("held_out", queries=14), "14 held-out queries are few"),
        (changed("verdict", margins_changed=["verify.margins.kl: 0.1"]), "verify.margins.kl: 0.1."),
        (measured_kl(1.1), "On “code” the baked model is further from the prompted one"),
        (SOUND.model_copy(update={"controls": {}}), "No control was run"),
        (
            SOUND.model_copy(
                update={
                    "controls": {
                        "wrong": SOUND.controls["wrong prompt"].model_copy(
                            update={"refused": False}
                        )
                    }
                }
            ),
            "The control “wrong” must be refused and was not",
        ),
        (check(base=0, prompted=0), "“says arr” cannot tell a bake from none: with the prompt"),
    ],
)
def test_a_result_with_one_flaw_has_one_warning(result: VerifyResult, words: str) -> None:
    (line,) = cautions(result, {})
    assert words in line


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            {"data": {"conversations": 20, "held_out": 10, "rejected": 20}},
            "20 of 50 responses were left out",
        ),
        ({"bake": {"steps": 12, "planned_steps": 52}}, "stopped after 12 of 52 steps"),
        (
            {"bake": {"sampling": {"0.7": HONEST | {"nll": 1.5, "expected_nll": 2.0}}}},
            "The responses at temperature 0.7 are no samples of the prompted model",
        ),
    ],
)
def test_a_run_with_one_flaw_has_one_warning(stages: Mapping[str, Any], words: str) -> None:
    (line,) = cautions(SOUND, record(**stages))
    assert words in line


def test_responses_that_were_cut_are_counted() -> None:
    (line,) = cautions(trained(70, cut=69), record())
    assert line.startswith("69 of 70 responses that were trained on were cut at 48 tokens: ")
    (line,) = cautions(trained(70, cut=69), {})
    assert "were cut: the baked model" in line
