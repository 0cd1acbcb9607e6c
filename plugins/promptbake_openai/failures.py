"""Requests that failed for good: some of them end the work only after the others are stored."""

from __future__ import annotations

from promptbake import BakeError

MAX_IN_A_ROW = 5  # requests that failed for good, before the rest are given up
RESUME = "responses received so far are kept; run the same command to resume"


class RequestFailures:
    """The failures of one call's requests.

    Args:
        items: What the requests are for, in the plural, such as "requests".
        outcome: What became of the failed ones, such as "failed".
    """

    def __init__(self, items: str, outcome: str) -> None:
        self._items, self._outcome = items, outcome
        self._problems = list[str]()
        self._in_a_row = 0

    def add(self, problem: str, permanent: bool) -> None:
        """Count a failure.

        Args:
            problem: The error message.
            permanent: Whether every other request would fail, too.

        Raises:
            BakeError: There is no use in sending the other requests.
        """
        self._problems.append(problem)
        self._in_a_row += 1
        if permanent:
            raise BakeError(f"{problem}; {RESUME}")
        if self._in_a_row >= MAX_IN_A_ROW:
            raise BakeError(
                f"{self._in_a_row} requests in a row failed, the last with: {problem}; {RESUME}"
            )

    def reset(self) -> None:
        """A request succeeded: the next failure is the first in a row."""
        self._in_a_row = 0

    def check(self, total: int) -> None:
        """Raise BakeError where any of the `total` requests failed."""
        if self._problems:
            raise BakeError(
                f"{len(self._problems)} of {total} {self._items} {self._outcome}, the last with: "
                f"{self._problems[-1]}; {RESUME}"
            )
