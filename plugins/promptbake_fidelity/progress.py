"""The progress of one part of an evaluator's work."""

from __future__ import annotations

from collections.abc import Callable


class Part:
    """A part of the work, in units such as responses, whose progress never passes its share.

    Args:
        progress: The context's.
        share: The part's share of the whole work, from 0 to 1.
        units: How many units of work it has.
    """

    def __init__(self, progress: Callable[[float], None], share: float, units: float) -> None:
        self._progress, self._left, self._unit = progress, share, share / max(units, 1.0)

    def advance(self, units: float = 1.0) -> None:
        """Some units are done; fractions are allowed."""
        step = min(units * self._unit, self._left)
        self._left -= step
        self._progress(step)

    def finish(self) -> None:
        """All units are done."""
        self._progress(self._left)
        self._left = 0.0
