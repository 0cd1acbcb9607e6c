"""Rate limits: one 429 response holds back all requests to its endpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Lock

import httpx2

RATE_LIMITED = (429, 503)
LONGEST = 1800.0  # seconds; a longer pause ends the work
PAUSE = 1.0  # seconds, where the endpoint does not say how long


class RateLimitGate:
    """Holds requests back for as long as a rate-limited response says.

    `wait` and `update` are event hooks of httpx2, so that they also see the client's own retries.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._lock = Lock()
        self._opens_at = 0.0
        self.congestion = 0  # rate-limited responses and timeouts
        self.longest = 0.0  # seconds, of the pauses that were asked for

    def wait(self, request: httpx2.Request) -> None:
        """Wait until the gate is open."""
        while (left := self._opens_at - self._clock()) > 0:
            self._sleep(left)

    def update(self, response: httpx2.Response) -> None:
        """Close the gate where the response is rate-limited, unless for longer than LONGEST."""
        seconds = parse_retry_after(response.headers.get("retry-after"))
        unavailable = response.status_code == 503 and seconds is None
        if response.status_code not in RATE_LIMITED or unavailable:
            return
        with self._lock:
            pause = PAUSE if seconds is None else seconds
            self.longest = max(self.longest, pause)
            if pause > LONGEST:
                response.headers["x-should-retry"] = "false"  # as the openai client reads it
                return
            self._opens_at = max(self._opens_at, self._clock() + pause)
            self.congestion += 1


def parse_retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds, of a Retry-After header with seconds or an HTTP date; None for any other."""
    if not header:
        return None
    try:
        seconds = float(header)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:  # "-0000" is UTC, too
        when = when.replace(tzinfo=UTC)
    return max((when - (now or datetime.now(UTC))).total_seconds(), 0.0)
