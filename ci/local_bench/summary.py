"""What is made of the outcomes: times to the target, gaps at equal time, ratios and bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from local_bench.records import NAMES, TARGET, Machine, Outcome, PhaseName, Point
from promptbake.documents.typed import OwnDocument
from promptbake.errors import BakeError

BARS = {"sdft": 10.0, "reference": 30.0}  # times the seconds that promptbake takes
SAME_KL = 0.01  # relative: more than rounding, and the contestants did not measure the same


class Spread(OwnDocument):
    """A number over the seeds."""

    median: float
    lowest: float
    highest: float


class TimeToTarget(OwnDocument):
    """Seconds to the target over the seeds.

    Attributes:
        at_least: For at least one seed the target was not reached, and its seconds are those at
            the end: the numbers are lower bounds.
        why: How that contestant ended; empty where all reached the target.
        best_gap: The median of the largest share of the gap that was closed.
    """

    seconds: Spread
    at_least: bool
    why: str
    best_gap: float


class Row(OwnDocument):
    """A contestant on a prompt, over the seeds.

    Attributes:
        ratio: Seconds to the target over promptbake's; None where promptbake did not run or did
            not reach the target. A lower bound where `time.at_least` is true.
        gap_at_equal_time: Share of the gap closed when promptbake has ended.
        tokens_per_second: Response tokens, of each kind of work.
        share_of_peak: The least FLOPs of its response tokens, over what the matrix multiply could
            do in the contestant's whole time.
    """

    prompt: str
    contestant: str
    seeds: int
    time: TimeToTarget
    ratio: float | None
    gap_at_equal_time: float | None
    peak_bytes: int
    tokens_per_second: dict[PhaseName, float]
    share_of_peak: float


class Bar(OwnDocument):
    """What was set out to be reached: at least so many times less time than a contestant."""

    prompt: str
    contestant: str
    least: float
    ratio: float | None
    passed: bool


@dataclass(frozen=True)
class _Reached:
    seconds: float
    reached: bool


def time_to(points: Sequence[Point], target: float = TARGET) -> float | None:
    """Seconds to the target, interpolated linearly between two points; None if never reached."""
    for before, after in pairwise(points):
        if after.gap_closed >= target:
            rise = after.gap_closed - before.gap_closed
            share = 0.0 if rise <= 0 else max(0.0, (target - before.gap_closed) / rise)
            return before.seconds + share * (after.seconds - before.seconds)
    return None


def gap_at(points: Sequence[Point], seconds: float) -> float:
    """The gap closed at that time: interpolated linearly, and after the last point the last."""
    for before, after in pairwise(points):
        if before.seconds <= seconds < after.seconds:
            share = (seconds - before.seconds) / (after.seconds - before.seconds)
            return before.gap_closed + share * (after.gap_closed - before.gap_closed)
    return points[-1].gap_closed


def check_same_measure(outcomes: Sequence[Outcome]) -> None:
    """Raise BakeError where two contestants began at different KLs: one measured another thing."""
    for first in outcomes:
        for other in outcomes:
            same = (first.prompt, first.seed) == (other.prompt, other.seed)
            if same and abs(first.base_kl / other.base_kl - 1.0) > SAME_KL:
                raise BakeError(
                    f"{first.prompt}, seed {first.seed}: the untrained model's KL is "
                    f"{first.base_kl:.4f} for {first.contestant} and {other.base_kl:.4f} for "
                    f"{other.contestant}; expected the same. Delete that prompt's folders"
                )


def rows(outcomes: Sequence[Outcome], machine: Machine) -> list[Row]:
    """A row for each prompt and contestant, in the order of NAMES."""
    check_same_measure(outcomes)
    found = []
    for prompt in dict.fromkeys(each.prompt for each in outcomes):
        mine = [each for each in outcomes if each.prompt == prompt]
        ours = [each for each in mine if each.contestant == "ours"]
        for name in NAMES:
            if theirs := [each for each in mine if each.contestant == name]:
                found.append(_row(theirs, ours, machine))
    return found


def bars(found: Sequence[Row]) -> list[Bar]:
    """The bars of the contestants that ran. A lower bound of a ratio may pass one."""
    return [
        Bar(
            prompt=row.prompt,
            contestant=row.contestant,
            least=BARS[row.contestant],
            ratio=row.ratio,
            passed=row.ratio is not None and row.ratio >= BARS[row.contestant],
        )
        for row in found
        if row.contestant in BARS
    ]


def _row(theirs: Sequence[Outcome], ours: Sequence[Outcome], machine: Machine) -> Row:
    time, ends = _time(theirs), {each.seed: each.seconds for each in ours}
    reference = _time(ours) if ours else None
    ratio = None
    if reference is not None and not reference.at_least:
        ratio = time.seconds.median / reference.seconds.median
    gaps = [gap_at(each.points, ends[each.seed]) for each in theirs if each.seed in ends]
    rates: dict[PhaseName, float] = {}
    for phase in theirs[0].phases:
        done = [each.phases[phase] for each in theirs if phase in each.phases]
        rates[phase] = median(each.tokens / max(each.seconds, 1e-9) for each in done)
    return Row(
        prompt=theirs[0].prompt,
        contestant=theirs[0].contestant,
        seeds=len(theirs),
        time=time,
        ratio=ratio,
        gap_at_equal_time=median(gaps) if gaps else None,
        peak_bytes=max(each.peak_bytes for each in theirs),
        tokens_per_second=rates,
        share_of_peak=median(_share_of_peak(each, machine) for each in theirs),
    )


def _time(outcomes: Sequence[Outcome]) -> TimeToTarget:
    times = [_reached(each) for each in outcomes]
    seconds = [each.seconds for each in times]
    missed = [each for each, time in zip(outcomes, times, strict=True) if not time.reached]
    return TimeToTarget(
        seconds=Spread(median=median(seconds), lowest=min(seconds), highest=max(seconds)),
        at_least=bool(missed),
        why=", ".join(sorted({each.ended for each in missed})),
        best_gap=median(max(point.gap_closed for point in each.points) for each in outcomes),
    )


def _reached(outcome: Outcome) -> _Reached:
    seconds = time_to(outcome.points)
    return _Reached(outcome.seconds, False) if seconds is None else _Reached(seconds, True)


def _share_of_peak(outcome: Outcome, machine: Machine) -> float:
    flops = sum(phase.flops for phase in outcome.phases.values())
    return flops / (outcome.seconds * machine.matmul_gflops * 1e9)
