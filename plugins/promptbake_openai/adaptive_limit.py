"""How many requests are in flight: as many as make the endpoint faster."""

from __future__ import annotations

from typing import Literal

START = 4
SATURATED = 1.6  # times the seconds a token at twice the requests: 1 in theory, 2 where they queue
CONGESTED = 0.2  # share of a window's requests


class AdaptiveLimit:
    """A bound on the requests in flight, adapted to the endpoint.

    It begins at START and doubles while the seconds that a token takes stay about the same. Where
    they double with it, the requests only wait for each other: it is halved while that makes each
    one faster. Where requests are rate-limited or time out, it is halved, and then grows by 1.

    Args:
        most: The highest value.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._value = min(START, most)
        self._phase: Literal["up", "down", "add", "hold"] = "up"
        self._before: float | None = None  # seconds a token, at the value before
        self._seen = 0
        self._clear()

    def __call__(self) -> int:
        """The bound now."""
        return self._value

    def record(self, seconds: float, tokens: int, congestion: int) -> None:
        """Count a request that has ended.

        Args:
            seconds: That it took; 0 where it failed.
            tokens: Of its work.
            congestion: How many rate-limited responses and timeouts there were, of all requests
                so far.
        """
        self._ended += 1
        congested, self._seen = congestion - self._seen, congestion
        self._congested += congested
        if not congested and seconds:
            self._seconds += seconds
            self._tokens += max(tokens, 1)
        if self._ended >= self._value:
            self._adapt()
            self._clear()

    def _clear(self) -> None:
        self._ended = self._congested = self._tokens = 0
        self._seconds = 0.0

    def _adapt(self) -> None:
        if self._congested >= CONGESTED * self._ended:
            self._value, self._phase = max(self._value // 2, 1), "add"
        elif self._phase == "add":
            self._value = min(self._value + 1, self._most)
        elif self._tokens and self._phase != "hold":
            self._climb(self._seconds / self._tokens)

    def _climb(self, cost: float) -> None:
        """Double or halve, by the seconds that a token takes now."""
        before, self._before = self._before, cost
        if self._phase == "up":
            if before is not None and cost > SATURATED * before:
                self._phase, self._before = "down", before
                self._value = max(self._value // 4, 1)
            else:
                self._value = min(2 * self._value, self._most)
                if self._value == self._most:
                    self._phase = "hold"
        elif before is not None and before > SATURATED * cost and self._value > 1:
            self._value //= 2
        else:
            if before is not None and before <= SATURATED * cost:
                self._value = min(2 * self._value, self._most)
            self._phase = "hold"
