"""Scales of the report's strips: the same in every report, so that two of them can be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KL_LIMITS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)  # nats/token


@dataclass(frozen=True)
class Scale:
    """A straight scale between two values."""

    low: float
    high: float

    def at(self, value: float) -> str:
        """The position of a value in per cent of the width; at the edge where it lies beyond."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"

    def holds(self, value: float) -> bool:
        """Whether the value lies on it."""
        return self.low <= value <= self.high

    @property
    def ticks(self) -> list[float]:
        """Five values from end to end."""
        return [self.low + (self.high - self.low) * step / 4 for step in range(5)]


def kl_scale(values: Iterable[float]) -> Scale:
    """From 0 to 1 nats/token, or to the next of `KL_LIMITS` that holds the values."""
    largest = max(values, default=0.0)
    high = next((limit for limit in KL_LIMITS if largest <= limit), KL_LIMITS[-1])
    return Scale(0.0, high)


def share_scale(values: Iterable[float]) -> Scale:
    """From 0 to 1, or from -1 where a share is below 0."""
    return Scale(-1.0 if min(values, default=0.0) < 0 else 0.0, 1.0)
