"""The verdict: equivalent within the margins, closer but not equivalent, or failed; and why.

Each margin is tested by itself at 5 %, one-sided, by the end of a 90 % interval. All must be passed
for *equivalent* (an intersection-union test), so no correction for their number is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from promptbake.documents.typed import OwnDocument
from promptbake.report.kl_result import KLResult
from promptbake.report.measured import (
    ControlResult,
    DifferenceResult,
    GapResult,
    Interval,
    MeasurementResult,
)
from promptbake.runs.config import MarginsSection

Outcome = Literal["equivalent within margins", "closer but not equivalent", "failed"]
Bound = Literal["at least", "at most", "within"]
SHARE = "share"  # what the unit of a measurement begins with that is a share of items
BEYOND = "retention.kl_to_base"  # nats/token, compared with the prompted model's


class Criterion(OwnDocument):
    """A measurement beside its margin."""

    margin: str = Field(description="the setting's key below verify.margins")
    measurement: str
    value: float
    ci90: Interval | None = None
    bound: Bound = Field(description="`within`: from -limit to limit")
    limit: float
    passed: bool = Field(description="the whole 90 % interval is on the good side")
    refuted: bool = Field(description="the whole 90 % interval is on the bad side")

    @property
    def line(self) -> str:
        """The criterion in one line."""
        shown = "no interval"
        if self.ci90 is not None:
            shown = f"90 % interval {self.ci90[0]:.3f} to {self.ci90[1]:.3f}"
        sign = "+/-" if self.bound == "within" else ""
        result = "passed" if self.passed else "not shown"
        return (
            f"{self.measurement} {self.value:.3f} ({shown}), margin {self.margin}: {self.bound} "
            f"{sign}{self.limit:g}: {'exceeded' if self.refuted else result}"
        )


class Verdict(OwnDocument):
    """How the bake compares with the prompted model, and what decided it."""

    outcome: Outcome
    decided_by: list[Criterion]
    reasons: list[str] = Field(
        default_factory=list, description="why it failed; or what was not shown"
    )
    margins_changed: list[str] = Field(
        default_factory=list, description="since the bake began, one line a margin"
    )


def judge(
    kl: KLResult,
    evaluators: Mapping[str, MeasurementResult],
    controls: Mapping[str, ControlResult],
    margins: MarginsSection,
    min_gap_closed: float,
    recorded: Mapping[str, float],
) -> Verdict:
    """The verdict on a bake.

    Args:
        kl: On held-out queries.
        evaluators: The evaluators' measurements, by name.
        controls: The controls that were run, by name.
        margins: The settings now.
        min_gap_closed: The threshold.
        recorded: The margins as they were when the bake began.
    """
    criteria = list(_criteria(kl, evaluators, margins))
    failures = [*_gap_failures(kl, min_gap_closed), *_failures(criteria, controls)]
    missing = [each.line for each in criteria if not each.passed]
    outcome: Outcome = "equivalent within margins"
    if failures:
        outcome = "failed"
    elif missing:
        outcome = "closer but not equivalent"
    return Verdict(
        outcome=outcome,
        decided_by=criteria,
        reasons=failures or missing,
        margins_changed=_changes(margins.model_dump(), recorded),
    )


def is_equivalent(ci90: Interval | None, margins: MarginsSection) -> bool:
    """Whether a gap closed is judged equivalent: what a control must not be."""
    return ci90 is not None and ci90[0] >= margins.gap_closed


def _criteria(
    kl: KLResult, evaluators: Mapping[str, MeasurementResult], margins: MarginsSection
) -> Iterator[Criterion]:
    held_out = GapResult(closed=kl.gap_closed, ci90=kl.gap_closed_ci90)
    yield _least("gap_closed", "kl.gap_closed", held_out, margins.gap_closed)
    for name, each in evaluators.items():
        kind = name.partition(".")[0]
        if kind in ("shift", "reverse_kl") and each.gap is not None:
            yield _least(kind, name, each.gap, getattr(margins, kind))
        difference = each.baked_minus_prompted
        if difference is None:
            continue
        if name == BEYOND:
            yield _most("retention", name, difference, "at most", margins.retention)
        elif each.unit.startswith(SHARE):
            yield _share(name, each, difference, margins.checks)


def _least(margin: str, name: str, gap: GapResult, limit: float) -> Criterion:
    ci90 = gap.ci90
    return Criterion(
        margin=margin,
        measurement=name,
        value=gap.closed,
        ci90=ci90,
        bound="at least",
        limit=limit,
        passed=ci90 is not None and ci90[0] >= limit,
        refuted=ci90 is not None and ci90[1] < limit,
    )


def _share(
    name: str, measurement: MeasurementResult, difference: DifferenceResult, limit: float
) -> Criterion:
    """Not worse than the prompted model; where no direction is better, not different."""
    if measurement.better == "lower":
        return _most("checks", name, difference, "at most", limit)
    if measurement.better == "higher":
        gap = GapResult(closed=difference.mean, ci90=difference.ci90)
        return _least("checks", name, gap, -limit)
    return _most("checks", name, difference, "within", limit)


def _most(
    margin: str, name: str, difference: DifferenceResult, bound: Bound, limit: float
) -> Criterion:
    ci90, both = difference.ci90, bound == "within"
    return Criterion(
        margin=margin,
        measurement=f"{name}, baked - prompted",
        value=difference.mean,
        ci90=ci90,
        bound=bound,
        limit=limit,
        passed=ci90 is not None and ci90[1] <= limit and (not both or ci90[0] >= -limit),
        refuted=ci90 is not None and (ci90[0] > limit or (both and ci90[1] < -limit)),
    )


def _gap_failures(kl: KLResult, min_gap_closed: float) -> Iterator[str]:
    interval = kl.gap_closed_ci95
    if interval is None:
        yield (
            "gap closed: one held-out query decides it, so that it has no interval; hold out more "
            "(data.held_out)"
        )
    elif interval[0] <= 0:
        yield (
            f"gap closed {kl.gap_closed:.3f}: its 95 % interval, {interval[0]:.3f} to "
            f"{interval[1]:.3f}, does not exclude 0, which is no bake"
        )
    if kl.gap_closed < min_gap_closed:
        yield f"gap closed {kl.gap_closed:.3f} is below verify.min_gap_closed = {min_gap_closed:g}"


def _failures(criteria: list[Criterion], controls: Mapping[str, ControlResult]) -> Iterator[str]:
    for each in criteria:
        if each.margin == "retention" and each.refuted:
            yield f"damage beyond the margin: {each.line}"
    for name, control in controls.items():
        if not control.refused:
            yield (
                f"the control {name!r} must be judged not equivalent, and it was: {control.what}: "
                f"{control.gap_closed:.3f} closed"
            )


def _changes(now: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """The margins that are not as they were when the bake began."""
    if not recorded:
        return ["none was on record when the bake began"]
    lines = []
    for name, value in now.items():
        before = recorded.get(name)
        if before is None:
            lines.append(f"verify.margins.{name}: {value:g}; not on record when the bake began")
        elif before != value:
            lines.append(f"verify.margins.{name}: {value:g}; {before:g} when the bake began")
    return lines
