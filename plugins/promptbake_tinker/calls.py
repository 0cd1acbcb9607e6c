"""Sampling calls, many in flight at a time, each reserved in the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from promptbake import Reservation, Usage
from promptbake_tinker.base import Base

T = TypeVar("T")


class Calls:
    """Calls of one kind, each reserved in the budget while it is in flight."""

    def __init__(self, base: Base, kind: str, sizes: Sequence[tuple[int, int]]) -> None:
        self._base, self._kind, self._sizes = base, kind, sizes
        self._reservations: dict[int, Reservation] = {}

    def run(
        self,
        submit: Callable[[int], Any],
        read: Callable[[int, Any], T],
        what: Callable[[int], str],
    ) -> Iterator[tuple[int, T]]:
        """Send all calls; yield what `read` returns for each response, in order of arrival.

        Args:
            submit: Sends the call of an index; returns the SDK's future.
            read: Reads the response of an index.
            what: Describes the call of an index, for messages.
        """

        def reserve_and_submit(index: int) -> Any:
            n_input, n_output = self._sizes[index]
            usage = self._base.priced(Usage(calls=1, input_tokens=n_input, output_tokens=n_output))
            reservation = self._base.budget.reserve(self._kind, usage)
            self._reservations[index] = reservation
            try:
                return submit(index)
            except BaseException:
                reservation.commit(Usage())  # it was not sent
                raise

        sizes = len(self._sizes)
        return self._base.service.gather(sizes, reserve_and_submit, read, what, self.release)

    def release(self, index: int) -> None:
        """A call that failed is not billed."""
        self._reservations[index].commit(Usage())

    def commit(self, index: int, answer: Any, sampled: int) -> None:
        """Replace the reservation by the usage that the response states."""
        cached = answer.prompt_cache_hit_tokens
        read = self._sizes[index][0] - cached
        self._reservations[index].commit(self._base.priced(Usage(1, read, cached, sampled)))
