"""Intervals of ratios of sums, such as the gap closed and nats per token, clustered by query.

The responses to one query depend on each other, so a query is the unit. The interval is Student's,
on the logarithm of the ratio, with the jackknife's standard error over the queries: at 15 queries
the resampled percentiles are too narrow. In 6,000 simulated runs of 15 queries (and of 40), with
log-normal KLs by query as the bakes of this project have (standard deviations 0.25 to 0.5 for base,
0.15 to 0.4 for baked), the 95 % interval held the true gap in 93.8 to 95.0 % of the runs, and a gap
that lies exactly at a margin was accepted by the 90 % interval's lower end in 4.4 to 5.7 %. At 0.5
and 0.6 it was 93.7 to 94.3 % and 5.9 to 6.5 %. Beside it, in 500 runs at 0.5 and 0.6 with 15
queries: percentile bootstrap 89.6 % and 8.2 %, BCa 86.8 % and 9.4 %, Student on the ratio itself
92.6 % and 8.8 %. Where one query in fifteen has most of the KL (standard deviation 1.0), it holds
91 % and accepts 12 %: no method that was tried does better than 90 % there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean

from promptbake.types import KLByConversation

Interval = tuple[float, float]


def sums_by_group(groups: Sequence[str], *columns: Sequence[float]) -> list[list[float]]:
    """Each column summed over the rows of each group: one list a column, groups in one order."""
    totals: dict[str, list[float]] = {}
    for group, *values in zip(groups, *columns, strict=True):
        total = totals.setdefault(group, [0.0] * len(columns))
        for index, value in enumerate(values):
            total[index] += value
    return [[total[index] for total in totals.values()] for index in range(len(columns))]


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], level: float = 0.95
) -> Interval | None:
    """Student's jackknife interval of sum(numerators) / sum(denominators).

    Args:
        numerators: One a query, none below 0.
        denominators: One a query, none below 0.
        level: The share of such intervals that hold the true ratio.

    Returns:
        Its ends; None for fewer than two queries, and where one query has the whole denominator.
        On the ratio itself, where a numerator without one query is 0 and has no logarithm.
    """
    count, above, below = len(numerators), sum(numerators), sum(denominators)
    without = [
        (above - n, below - d) for n, d in zip(numerators, denominators, strict=True)
    ]  # each query left out
    if count < 2 or min(d for _, d in without) <= 1e-12 * below:
        return None
    in_logs = min(n for n, _ in without) > 1e-12 * above
    scale = math.log if in_logs else float
    values = [scale(n / d) for n, d in without]
    mean = fmean(values)
    error = math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in values))
    reach = _student(level, count - 1) * error
    low, high = scale(above / below) - reach, scale(above / below) + reach
    if in_logs:
        return math.exp(max(low, -700.0)), math.exp(min(high, 700.0))
    return max(low, 0.0), high


def gap_closed_interval(
    base: KLByConversation, baked: KLByConversation, groups: Sequence[str], level: float = 0.95
) -> Interval | None:
    """An interval of `gap_closed` over the queries; None where `ratio_interval` has none.

    Args:
        base: KL(prompted || base) of each conversation.
        baked: KL(prompted || baked) of each.
        groups: The query of each: the responses to one query are one observation.
        level: The share of such intervals that hold the true gap. The lower end at 0.9 is the
            one-sided test at 5 % that the gap reaches a margin.
    """
    after, before = sums_by_group(groups, baked.nats, base.nats)
    interval = ratio_interval(after, before, level)
    return None if interval is None else (1 - interval[1], 1 - interval[0])


def per_token_interval(
    nats: Sequence[float], tokens: Sequence[int], groups: Sequence[str], level: float = 0.95
) -> Interval | None:
    """An interval of nats per token over the queries; None where `ratio_interval` has none."""
    above, below = sums_by_group(groups, nats, tokens)
    return ratio_interval(above, below, level)


@cache
def _student(level: float, freedom: int) -> float:
    """Student's t, two-sided at this level."""
    from scipy.stats import t  # takes a while to import

    return float(t.ppf(0.5 + level / 2, freedom))
