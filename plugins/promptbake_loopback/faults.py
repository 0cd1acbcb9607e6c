"""Faults to inject: what goes wrong, with which requests, how often."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong `times` times, once `after` matching requests have passed.

    `kind` is one of the server's kinds. `on` names the requests: an endpoint of the server, or
    `any`. `seconds` is the length of a delay; None is the server's default.
    """

    kind: str
    on: str = "any"
    times: int = 1
    after: int = 0
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.times < 1 or self.after < 0 or (self.seconds or 0) < 0:
            raise ValueError(f"times is at least 1, after and seconds at least 0; found {self}")


class FaultQueue:
    """The injected faults that are still to happen, of the `kinds` that a server knows.

    `any` does not match the endpoints in `background`.
    """

    def __init__(self, kinds: Collection[str], background: Collection[str] = ()) -> None:
        self._kinds, self._background = frozenset(kinds), frozenset(background)
        self._lock = Lock()
        self._counts: list[tuple[Fault, list[int]]] = []  # with its [after, times] that are left

    def check(self, *kinds: str) -> None:
        """Raise ValueError for a kind that the server does not know."""
        if unknown := set(kinds) - self._kinds:
            known = ", ".join(sorted(self._kinds))
            raise ValueError(
                f"no fault is called {', '.join(sorted(unknown))}; choose from: {known}"
            )

    def inject(self, fault: Fault) -> None:
        """Add one. Raises ValueError."""
        self.check(fault.kind)
        with self._lock:
            self._counts.append((fault, [fault.after, fault.times]))

    def take(self, kinds: Collection[str], *names: str) -> Fault | None:
        """The fault of one of these kinds that happens to a request with these names, if any.

        A request passes by every fault that it matches, until one happens to it.
        """
        with self._lock:
            for item in self._counts:
                fault, left = item
                if fault.kind not in kinds or not self._matches(fault.on, names):
                    continue
                if left[0]:
                    left[0] -= 1
                    continue
                left[1] -= 1
                if not left[1]:
                    self._counts.remove(item)
                return fault
        return None

    def _matches(self, on: str, names: tuple[str, ...]) -> bool:
        return on in names or (on == "any" and self._background.isdisjoint(names))
