"""Two JSON values beside each other: each number, text or flag that is not the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

SHOWN = 80  # characters of a value
NOTHING = object()  # where one of the two has no such value


@dataclass(frozen=True)
class Tolerance:
    """How far two numbers may be apart: `absolute`, or `relative` to the stored one."""

    absolute: float = 0.0
    relative: float = 0.0

    def allows(self, stored: float, recomputed: float) -> bool:
        """Whether the two count as the same."""
        reach = self.absolute + self.relative * abs(stored)
        return stored == recomputed or abs(stored - recomputed) <= reach

    @property
    def words(self) -> str:
        """The tolerance for a person."""
        return f"{self.absolute:g} and {self.relative:.1%} of the stored number"


EXACT = Tolerance()


@dataclass(frozen=True)
class Difference:
    """What is stored, and what it should be; texts as they are shown."""

    what: str
    stored: str
    recomputed: str

    @property
    def line(self) -> str:
        """The difference in one line."""
        return f"{self.what}: stored {self.stored}, recomputed {self.recomputed}"

    @classmethod
    def between(cls, what: str, stored: object, recomputed: object) -> Difference:
        """Of two JSON values."""
        return cls(what, _shown(stored), _shown(recomputed))


def differences(
    stored: Any, recomputed: Any, what: str, tolerance: Tolerance = EXACT
) -> Iterator[Difference]:
    """Each leaf that differs, named by its path below `what`.

    Args:
        stored: A JSON value.
        recomputed: What it should be.
        what: The file, which the paths begin with.
        tolerance: For numbers.
    """
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for key in [*stored, *(key for key in recomputed if key not in stored)]:
            pair = stored.get(key, NOTHING), recomputed.get(key, NOTHING)
            separator = "." if ": " in what else ": "
            yield from differences(*pair, f"{what}{separator}{key}", tolerance)
    elif isinstance(stored, list) and isinstance(recomputed, list):
        pairs = zip_longest(stored, recomputed, fillvalue=NOTHING)
        for index, pair in enumerate(pairs):
            yield from differences(*pair, f"{what}[{index}]", tolerance)
    elif not _same(stored, recomputed, tolerance):
        yield Difference.between(what, stored, recomputed)


def _same(stored: object, recomputed: object, tolerance: Tolerance) -> bool:
    if isinstance(stored, bool) or isinstance(recomputed, bool):
        return stored is recomputed
    if isinstance(stored, int | float) and isinstance(recomputed, int | float):
        return tolerance.allows(stored, recomputed)
    return stored == recomputed


def _shown(value: object) -> str:
    if value is NOTHING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
