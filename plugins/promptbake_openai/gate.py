"""One gate for all requests to an endpoint: when it is busy, nobody passes for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock

import httpx2

BUSY = (429, 503)
PAUSE = 1.0  # seconds, where the endpoint does not say how long


class Gate:
    """Closed by the first answer that says "too many requests", for as long as that says.

    `pass_through` and `note` are hooks of httpx2, so that they see the client's own retries, too.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = Lock()
        self._opens = 0.0
        self.closed = 0  # how often

    def pass_through(self, request: httpx2.Request) -> None:
        """Wait until the gate is open."""
        while (left := self._opens - self._clock()) > 0:
            self._sleep(left)

    def note(self, response: httpx2.Response) -> None:
        """Close the gate where an answer asks for it."""
        told = retry_after(response.headers.get("retry-after"))
        if response.status_code not in BUSY or (response.status_code == 503 and told is None):
            return
        with self._lock:
            self.closed += 1
            self._opens = max(self._opens, self._clock() + (PAUSE if told is None else told))


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds, of a Retry-After header with seconds or an HTTP date; None for another."""
    if not value:
        return None
    try:
        seconds = float(value)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:  # "-0000" is UTC, too
        when = when.replace(tzinfo=UTC)
    return max((when - (now or datetime.now(UTC))).total_seconds(), 0.0)
