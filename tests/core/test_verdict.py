"""The verdict: each margin by itself, what fails a bake, and margins that were moved."""

from __future__ import annotations

from typing import Any

import pytest
from verify_example import RESULT

from promptbake.report.measured import ControlResult, MeasurementResult
from promptbake.report.verdict import Verdict, is_equivalent, judge
from promptbake.runs.config import MarginsSection
from promptbake.types import Arm, Measurement

MARGINS = MarginsSection()  # type: ignore[call-arg]
EQUIVALENT = "equivalent within margins"
CLOSER = "closer but not equivalent"


def judged(
    *measurements: Measurement,
    ci90: tuple[float, float] | None = (0.85, 0.95),
    ci95: tuple[float, float] | None = (0.84, 0.96),
    closed: float = 0.9,
    controls: dict[str, ControlResult] | None = None,
    min_gap_closed: float = 0.5,
    recorded: dict[str, float] | None = None,
    **margins: Any,
) -> Verdict:
    now = MARGINS.model_copy(update=margins)
    kl = RESULT.kl.model_copy(
        update={"gap_closed": closed, "gap_closed_ci90": ci90, "gap_closed_ci95": ci95}
    )
    evaluators = {each.name: MeasurementResult.of(each) for each in measurements}
    before = now.model_dump() if recorded is None else recorded
    return judge(kl, evaluators, controls or {}, now, min_gap_closed, before)


def measured(name: str, unit: str, better: Any = None, **scores: list[float]) -> Measurement:
    """Scores by arm, of items 0, 1, 2, ..."""
    by_arm: dict[Arm, dict[str, float]] = {
        arm: {str(item): value for item, value in enumerate(values)}  # type: ignore[misc]
        for arm, values in scores.items()
    }
    return Measurement(name, unit, by_arm, better)


def test_the_whole_interval_must_reach_the_margin() -> None:
    assert judged().outcome == EQUIVALENT
    assert judged().reasons == []
    (line,) = judged(ci90=(0.79, 0.97)).reasons
    assert line == (
        "kl.gap_closed 0.900 (90 % interval 0.790 to 0.970), margin gap_closed: at least 0.8: "
        "not shown"
    )
    assert judged(ci90=(0.79, 0.97)).outcome == CLOSER
    assert judged(ci90=(0.79, 0.97), gap_closed=0.79).outcome == EQUIVALENT
    below = judged(ci90=(0.6, 0.7), closed=0.65)
    assert (below.outcome, below.decided_by[0].refuted) == (CLOSER, True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"closed": 0.4, "ci90": (0.1, 0.6), "ci95": (0.05, 0.7)}, "is below verify.min_gap"),
        ({"ci90": (-0.1, 0.9), "ci95": (-0.3, 0.95)}, "does not exclude 0"),
        ({"ci90": (0.1, 0.9), "ci95": (0.0, 0.95)}, "does not exclude 0"),
        ({"ci90": None, "ci95": None}, "one held-out query decides it"),
    ],
)
def test_a_gap_that_may_be_none_fails(changes: dict[str, Any], reason: str) -> None:
    verdict = judged(**changes)
    assert verdict.outcome == "failed"
    assert reason in verdict.reasons[0]


@pytest.mark.parametrize(("margin", "name"), [("shift", "shift.code"), ("reverse_kl",) * 2])
def test_each_shipped_set_and_the_reverse_kl_have_a_margin(margin: str, name: str) -> None:
    def outcome(*baked: float) -> str:
        return judged(
            measured(name, "nats/token", "lower", base=[1.0, 1.2, 0.9, 1.1], baked=[*baked])
        ).outcome

    assert outcome(0.1, 0.2, 0.1, 0.2) == EQUIVALENT
    assert outcome(0.9, 1.0, 0.8, 1.0) == CLOSER
    assert outcome(0.1, 1.2, 0.1, 0.9) == CLOSER  # one that is not closed widens the interval
    one = judged(measured(name, "nats/token", base=[1.0], baked=[0.1]))
    assert "no interval" in one.reasons[0]
    untouched = measured(name, "nats/token", base=[0.0, 0.0], baked=[0.0, 0.0])
    assert [each.margin for each in judged(untouched).decided_by] == ["gap_closed"]
    other = measured("perplexity", "nats/token", base=[1.0, 2.0], baked=[1.0, 2.0])
    assert judged(other).outcome == EQUIVALENT


def test_damage_fails_where_it_is_shown_and_is_no_equivalence_where_it_may_be() -> None:
    def verdict(*baked: float) -> Verdict:
        prompted = [0.30, 0.32, 0.31, 0.33, 0.29]
        return judged(
            measured("retention.kl_to_base", "nats/token", prompted=prompted, baked=[*baked])
        )

    assert verdict(0.35, 0.36, 0.35, 0.38, 0.34).outcome == EQUIVALENT
    assert verdict(0.1, 0.1, 0.1, 0.1, 0.1).outcome == EQUIVALENT
    assert verdict(0.3, 0.9, 0.3, 0.4, 0.7).outcome == CLOSER
    damaged = verdict(1.0, 1.1, 0.9, 1.0, 1.2)
    assert damaged.outcome == "failed"
    assert damaged.reasons[0].startswith("damage beyond the margin: retention.kl_to_base, baked - ")


@pytest.mark.parametrize(
    ("better", "baked", "outcome"),
    [
        (None, "1111111111", EQUIVALENT),  # ten that agree: less than 0.22
        (None, "1111111100", CLOSER),
        ("higher", "1111111100", CLOSER),
        ("lower", "0000000000", EQUIVALENT),
        ("lower", "1111111111", EQUIVALENT),
    ],
)
def test_shares_are_compared_with_the_prompted_models(
    better: Any, baked: str, outcome: str
) -> None:
    given = measured(
        "rhyme", "share of answers", better, prompted=[1.0] * 10, baked=[*map(float, baked)]
    )
    assert judged(given).outcome == outcome
    result = MeasurementResult.of(given)
    assert result.shares["prompted"].note == "0 failures in 10 only says fewer than 30% (95 %)"
    assert (result.shares["baked"].count, result.shares["baked"].items) == (baked.count("1"), 10)
    assert judged(given, checks=0.0).outcome == (EQUIVALENT if "1" not in baked else CLOSER)


def test_a_control_that_is_not_refused_fails_the_bake() -> None:
    control = RESULT.controls["wrong prompt"]
    assert judged(controls={"wrong prompt": control}).outcome == EQUIVALENT
    passed = control.model_copy(update={"refused": False, "gap_closed": 0.9})
    verdict = judged(controls={"wrong prompt": passed})
    assert verdict.outcome == "failed"
    assert verdict.reasons[0].startswith("the control 'wrong prompt' must be judged not equivalent")
    assert is_equivalent((0.8, 0.9), MARGINS)
    assert not is_equivalent((0.79, 0.9), MARGINS)
    assert not is_equivalent(None, MARGINS)


def test_margins_that_were_moved_after_the_bake_began_are_named() -> None:
    assert judged().margins_changed == []
    before = MARGINS.model_dump() | {"gap_closed": 0.9}
    assert judged(recorded=before).margins_changed == [
        "verify.margins.gap_closed: 0.8; 0.9 when the bake began"
    ]
    del before["gap_closed"]
    assert judged(recorded=before).margins_changed == [
        "verify.margins.gap_closed: 0.8; not on record when the bake began"
    ]
    assert judged(recorded={}).margins_changed == ["none was on record when the bake began"]
