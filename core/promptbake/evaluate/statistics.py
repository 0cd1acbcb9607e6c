"""The gap closed, and arms compared item by item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from promptbake.types import KLByConversation


def gap_closed(base: KLByConversation, baked: KLByConversation) -> float:
    """1 - KL(prompted || baked) / KL(prompted || base): 0 is no bake, 1 is the prompt itself."""
    return 1 - baked.per_token / base.per_token


@dataclass(frozen=True)
class Difference:
    """The mean difference of two arms over the items that both have, in the scores' unit."""

    mean: float
    ci95: tuple[float, float] | None  # None where fewer than two items have a difference
    items: int
    ci90: tuple[float, float] | None = None  # its ends are one-sided tests at 5 %


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
    error = stdev(differences) / math.sqrt(items)
    reach95, reach90 = (float(t.ppf(p, items - 1)) * error for p in (0.975, 0.95))
    return Difference(
        mean, (mean - reach95, mean + reach95), items, (mean - reach90, mean + reach90)
    )
