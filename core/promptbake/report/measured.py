"""What evaluators and controls measured, as verify.json has it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from promptbake.documents.typed import OwnDocument
from promptbake.evaluate.intervals import ratio_interval
from promptbake.evaluate.shares import paired_shares, rule_of_three, wilson
from promptbake.evaluate.statistics import paired_difference
from promptbake.types import ARMS, Arm, Direction, Measurement

Interval = tuple[float, float]
GAP_OF = ("shift", "drift", "reverse_kl")  # KLs in nats/token, by the first part of their name


class DifferenceResult(OwnDocument):
    """The mean difference of two arms over the items that both have."""

    mean: float
    ci95: Interval | None = None
    ci90: Interval | None = Field(None, description="its ends are one-sided tests at 5 %")
    items: int
    p_value: float | None = Field(
        None, description="of no difference in shares, by McNemar's exact test"
    )


class ShareResult(OwnDocument):
    """How many items passed, where each passes or fails."""

    count: int
    items: int
    ci95: Interval = Field(description="Wilson's")
    note: str = Field("", description="what a share of none, or of all, leaves possible")


class GapResult(OwnDocument):
    """The share of an evaluator's KL that is closed: 1 - baked / base."""

    closed: float
    ci95: Interval | None = None
    ci90: Interval | None = Field(None, description="its lower end is a one-sided test at 5 %")


class MeasurementResult(OwnDocument):
    """What one evaluator measured: the mean of each arm, and its scores item by item."""

    unit: str
    better: Direction | None = None
    base: float | None = None
    prompted: float | None = None
    baked: float | None = None
    reprompted: float | None = None
    baked_minus_prompted: DifferenceResult | None = None
    baked_minus_base: DifferenceResult | None = None
    gap: GapResult | None = Field(None, description=f"of {', '.join(GAP_OF)}")
    shares: dict[Arm, ShareResult] = Field(
        default_factory=dict, description="where every score is 0 or 1"
    )
    scores: dict[Arm, dict[str, float]] = Field(description="by arm and item")

    @property
    def means(self) -> dict[Arm, float]:
        """The mean of each arm that was measured."""
        values = {arm: getattr(self, arm) for arm in ARMS}
        return {arm: value for arm, value in values.items() if value is not None}

    @classmethod
    def of(cls, measurement: Measurement) -> MeasurementResult:
        """The means, differences, shares and gap of an evaluator's scores."""
        scores = measurement.scores
        base, prompted, baked = (scores.get(arm, {}) for arm in ("base", "prompted", "baked"))
        shares = {arm: _share(each) for arm, each in scores.items() if each}
        all_shares = None not in shares.values()
        return cls(
            unit=measurement.unit,
            better=measurement.better,
            **measurement.means,
            baked_minus_prompted=_difference(baked, prompted),
            baked_minus_base=_difference(baked, base),
            gap=_gap(base, baked) if measurement.name.partition(".")[0] in GAP_OF else None,
            shares={arm: each for arm, each in shares.items() if each} if all_shares else {},
            scores={arm: {k: float(v) for k, v in each.items()} for arm, each in scores.items()},
        )


class ControlResult(OwnDocument):
    """A check that must fail: judged as the bake is, and to be refused."""

    what: str = Field(description="what was compared, in words")
    gap_closed: float
    ci90: Interval | None = None
    conversations: int
    refused: bool = Field(description="judged not equivalent, as it must be")


def _difference(
    scores: Mapping[str, float], others: Mapping[str, float]
) -> DifferenceResult | None:
    """By Student's paired interval; by Tango's where every score is 0 or 1."""
    pairs = paired_shares(scores, others)
    if pairs is not None:
        ci95, ci90 = pairs.interval(0.95), pairs.interval(0.9)
        return DifferenceResult(
            mean=pairs.difference, ci95=ci95, ci90=ci90, items=pairs.items, p_value=pairs.p_value
        )
    difference = paired_difference(scores, others)
    return DifferenceResult(**vars(difference)) if difference else None


def _share(scores: Mapping[str, float]) -> ShareResult | None:
    if not set(scores.values()) <= {0.0, 1.0}:
        return None
    count, items = round(sum(scores.values())), len(scores)
    note = rule_of_three(count, items)
    return ShareResult(count=count, items=items, ci95=wilson(count, items), note=note)


def _gap(base: Mapping[str, float], baked: Mapping[str, float]) -> GapResult | None:
    """Over the items of both; None where there are none, or base is at 0 already."""
    items = [item for item in base if item in baked]
    before, after = ([float(each[item]) for item in items] for each in (base, baked))
    if sum(before) <= 0:
        return None
    ci95, ci90 = (ratio_interval(after, before, level) for level in (0.95, 0.9))
    return GapResult(
        closed=1 - sum(after) / sum(before),
        ci95=ci95 and (1 - ci95[1], 1 - ci95[0]),
        ci90=ci90 and (1 - ci90[1], 1 - ci90[0]),
    )
