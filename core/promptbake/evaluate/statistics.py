"""Intervals and tests, in one place: the gap closed, and arms compared item by item."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, stdev

from promptbake.types import KLByConversation

RESAMPLES = 2000


def gap_closed(base: KLByConversation, baked: KLByConversation) -> float:
    """1 - KL(prompted || baked) / KL(prompted || base): 0 is no bake, 1 is the prompt itself."""
    return 1 - baked.per_token / base.per_token


def gap_closed_ci95(
    base: KLByConversation, baked: KLByConversation, groups: Sequence[str], seed: int
) -> tuple[float, float]:
    """A 95 % percentile bootstrap interval of `gap_closed`, over the queries.

    `groups` gives each datum's query: the responses to one query are drawn together.
    """
    totals: dict[str, list[float]] = {}
    for group, before, after in zip(groups, base.nats, baked.nats, strict=True):
        total = totals.setdefault(group, [0.0, 0.0])
        total[0] += before
        total[1] += after
    pairs, generator = list(totals.values()), random.Random(f"bootstrap:{seed}")

    def resampled() -> Iterator[float]:
        while True:
            drawn = generator.choices(pairs, k=len(pairs))
            yield 1 - sum(pair[1] for pair in drawn) / sum(pair[0] for pair in drawn)

    gaps = sorted(islice(resampled(), RESAMPLES))
    return gaps[round(0.025 * RESAMPLES)], gaps[round(0.975 * RESAMPLES) - 1]


@dataclass(frozen=True)
class Difference:
    """The mean difference of two arms over the items that both have, in the scores' unit."""

    mean: float
    ci95: tuple[float, float] | None  # None where fewer than two items have a difference
    items: int


def paired_difference(
    scores: Mapping[str, float], others: Mapping[str, float]
) -> Difference | None:
    """The mean of `scores - others` over the items of both, with Student's paired interval.

    None where they have no item in common.
    """
    from scipy.stats import t  # takes a while to import

    differences = [scores[item] - others[item] for item in scores if item in others]
    if not differences:
        return None
    items, mean = len(differences), fmean(differences)
    if items < 2:
        return Difference(mean, None, items)
    margin = float(t.ppf(0.975, items - 1)) * stdev(differences) / math.sqrt(items)
    return Difference(mean, (mean - margin, mean + margin), items)
