"""The rows of the report's sections: each is made where its measurements exist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from promptbake.report.formats import (
    MINUS,
    NO_BREAK,
    number,
    numbers,
    percent,
    percents,
    points,
    signed_percent,
)
from promptbake.report.measured import DifferenceResult, Interval, MeasurementResult
from promptbake.report.verdict import Criterion
from promptbake.report.verify_result import AnswerResult
from promptbake.types import ARM_LABELS, ARMS, Arm

OWN_SECTIONS = ("shift", "drift", "reverse_kl", "retention", "extraction")
ARM_NAMES: Mapping[Arm, str] = {arm: label.capitalize() for arm, label in ARM_LABELS.items()}
IN_NATS = ("retention",)  # margins in nats/token; the others are shares, or differences of shares
DIFFERENCES = ("checks",)
KIND_LABELS = {
    "kl": "held-out queries",
    "shift": "not trained on",
    "reverse_kl": "in the other direction",
    "retention": "what else changed",
    "extraction": "reciting the prompt",
}


@dataclass(frozen=True)
class GapRow:
    """The share of one measurement's KL that is closed."""

    name: str
    closed: float
    ci95: Interval | None
    base: float  # nats/token
    baked: float
    items: int


@dataclass(frozen=True)
class Cell:
    """A value as it is written, and what is said below it."""

    text: str
    below: str = ""


@dataclass(frozen=True)
class TableRow:
    """One measurement by arm."""

    name: str
    below: str
    cells: Mapping[Arm, Cell]
    difference: Cell | None  # baked - prompted
    note: str


@dataclass(frozen=True)
class Ending:
    """How long an arm's answers are, and how many of them it ended itself."""

    arm: str
    tokens: float | None
    complete: int
    answers: int  # of which it is known


def by_kind(
    evaluators: Mapping[str, MeasurementResult],
) -> dict[str, dict[str, MeasurementResult]]:
    """Measurements by the part of their name before the dot, where that has a section of its own.

    All others are under an empty name.
    """
    kinds: dict[str, dict[str, MeasurementResult]] = {kind: {} for kind in ("", *OWN_SECTIONS)}
    for name, each in evaluators.items():
        kind, _, rest = name.partition(".")
        own = kind in OWN_SECTIONS
        kinds[kind if own else ""][(rest or name) if own else name] = each
    return kinds


def gap_rows(measurements: Mapping[str, MeasurementResult]) -> list[GapRow]:
    """Those that have a gap, in their order."""
    return [
        GapRow(
            readable(name), each.gap.closed, each.gap.ci95, each.base, each.baked,
            len(each.scores.get("baked", {})),
        )
        for name, each in measurements.items()
        if each.gap is not None and each.base is not None and each.baked is not None
    ]  # fmt: skip


def table_rows(measurements: Mapping[str, MeasurementResult]) -> list[TableRow]:
    """Those that have no gap, in their order."""
    return [
        TableRow(
            readable(name),
            each.unit + (f", {each.better} is better" if each.better else ""),
            {arm: _cell(each, arm) for arm in ARMS if arm in each.means},
            _difference(each),
            each.shares["baked"].note if "baked" in each.shares else "",
        )
        for name, each in measurements.items()
        if each.gap is None
    ]


def arms_of(rows: Sequence[TableRow]) -> list[Arm]:
    """The arms that any of the rows has."""
    return [arm for arm in ARMS if any(arm in row.cells for row in rows)]


def readable(name: str) -> str:
    """A measurement's name in words, where an evaluator made it of an identifier."""
    return name.replace("_", " ") if name.replace("_", "").isalnum() else name


def criterion_name(criterion: Criterion) -> str:
    """What was measured, in words."""
    name, minus, _ = criterion.measurement.partition(", baked - prompted")
    kind, _, rest = name.partition(".")
    if kind in KIND_LABELS:
        name = ": ".join(filter(None, (KIND_LABELS[kind], readable(rest))))
    difference = minus or criterion.margin in DIFFERENCES
    return f"{name}, baked {MINUS} prompted" if difference else name


def criterion_value(criterion: Criterion, value: float) -> str:
    """A value in the unit of its margin."""
    if criterion.margin in IN_NATS:
        return f"{number(value)}{NO_BREAK}nats"
    if criterion.margin in DIFFERENCES:
        return points(value)
    return percent(value)


def criterion_interval(criterion: Criterion) -> str:
    """Its 90 % interval, in the same unit."""
    if criterion.ci90 is None:
        return ""
    low, high = criterion.ci90
    if criterion.margin in IN_NATS:
        return f"{number(low)} to {number(high)}{NO_BREAK}nats"
    if criterion.margin in DIFFERENCES:
        return f"{signed_percent(low)} to {points(high)}"
    return percents(criterion.ci90)


def criterion_limit(criterion: Criterion) -> str:
    """What the margin asks for."""
    sign = "±" if criterion.bound == "within" else ""
    if criterion.margin in IN_NATS:
        return f"{criterion.bound} {sign}{criterion.limit:g}{NO_BREAK}nats"
    unit = "points" if criterion.margin in DIFFERENCES else "%"
    limit = f"{100 * criterion.limit:g}".replace("-", MINUS)
    return f"{criterion.bound} {sign}{limit}{NO_BREAK}{unit}"


def endings(answers: Sequence[AnswerResult]) -> list[Ending]:
    """By arm; none where the lengths are not on record."""
    counts = Counter(arm for each in answers for arm, whole in each.complete.items() if whole)
    return [
        Ending(
            ARM_NAMES[arm],
            fmean(lengths) if (lengths := _lengths(answers, arm)) else None,
            counts[arm],
            sum(arm in each.complete for each in answers),
        )
        for arm in ARMS
        if any(arm in each.complete for each in answers)
    ]


def _lengths(answers: Sequence[AnswerResult], arm: Arm) -> list[int]:
    return [each.tokens[arm] for each in answers if arm in each.tokens]


def _cell(measurement: MeasurementResult, arm: Arm) -> Cell:
    if arm in measurement.shares:
        share = measurement.shares[arm]
        return Cell(f"{share.count} of {share.items}", percents(share.ci95))
    return Cell(number(measurement.means[arm]))


def _difference(measurement: MeasurementResult) -> Cell | None:
    difference = measurement.baked_minus_prompted
    if difference is None:
        return None
    if measurement.shares:
        return Cell(signed_percent(difference.mean), _share_interval(difference))
    return Cell(number(difference.mean), numbers(difference.ci95) if difference.ci95 else "")


def _share_interval(difference: DifferenceResult) -> str:
    if difference.ci95 is None:
        return ""
    return " to ".join(map(signed_percent, difference.ci95))
