"""Shares: how many of n items passed, with what that says of all such items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

Interval = tuple[float, float]
ROUNDING = 1e-12


def wilson(count: int, items: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share: `count` of `items`."""
    z2 = _z(level) ** 2
    middle = (count + z2 / 2) / (items + z2)
    reach = math.sqrt(z2 * (count * (items - count) / items + z2 / 4)) / (items + z2)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def rule_of_three(count: int, items: int) -> str:
    """What a share of none, or of all, leaves possible at 95 %; empty for any other."""
    if count not in (0, items) or items < 4:
        return ""
    what = "passes" if count == 0 else "failures"
    return f"0 {what} in {items} only says fewer than {3 / items:.0%} (95 %)"


@dataclass(frozen=True)
class PairedShares:
    """Two arms on the same items, each of which passes or fails."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def items(self) -> int:
        """How many items both arms have."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def difference(self) -> float:
        """The first arm's share less the second's."""
        return (self.first_only - self.second_only) / self.items

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided, of no difference: the sign test on what differs."""
        from scipy.stats import binomtest  # takes a while to import

        differing = self.first_only + self.second_only
        return float(binomtest(self.first_only, differing).pvalue) if differing else 1.0

    def interval(self, level: float = 0.95) -> Interval:
        """Tango's score interval of the difference (Statistics in Medicine 17, 1998).

        It has a width where no item differs: n items that all agree leave z^2 / (n + z^2).
        """
        z = _z(level)
        return self._bound(z, -1.0), self._bound(-z, 1.0)

    def _bound(self, z: float, end: float) -> float:
        """The difference, between the estimate and `end`, at which the score is `z`."""
        inner, outer = self.difference, end
        for _ in range(60):
            middle = (inner + outer) / 2
            inside = self._score(middle) < z if end < 0 else self._score(middle) > z
            inner, outer = (middle, outer) if inside else (inner, middle)
        return inner

    def _score(self, difference: float) -> float:
        """Standard errors by which the estimate lies above a true `difference`."""
        n, b, c = self.items, self.first_only, self.second_only
        linear = -b - c + (2 * n - b + c) * difference
        root = math.sqrt(max(0.0, linear**2 + 8 * n * c * difference * (1 - difference)))
        share = (root - linear) / (4 * n)  # of items where the second arm alone passes
        variance = n * (2 * share + difference * (1 - difference))
        excess = b - c - n * difference
        if variance > ROUNDING:
            return excess / math.sqrt(variance)
        return 0.0 if abs(excess) < ROUNDING else math.copysign(math.inf, excess)


def paired_shares(scores: Mapping[str, float], others: Mapping[str, float]) -> PairedShares | None:
    """The items of both arms by what each scored; None where a score is neither 0 nor 1."""
    items = scores.keys() & others.keys()
    pairs = [(scores[item], others[item]) for item in items]
    if not pairs or not {value for pair in pairs for value in pair} <= {0.0, 1.0}:
        return None
    return PairedShares(*(pairs.count(each) for each in ((1, 1), (1, 0), (0, 1), (0, 0))))


@cache
def _z(level: float) -> float:
    from scipy.stats import norm  # takes a while to import

    return float(norm.ppf(0.5 + level / 2))
