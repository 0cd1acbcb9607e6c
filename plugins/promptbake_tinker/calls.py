"""Sampling calls, many under way at a time, each held against the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from promptbake import Reservation, Usage
from promptbake_tinker.base import Base

T = TypeVar("T")


class Calls:
    """Calls of one kind, each held against the budget while it is under way."""

    def __init__(self, base: Base, kind: str, sizes: Sequence[tuple[int, int]]) -> None:
        self._base, self._kind, self._sizes = base, kind, sizes
        self._holds: dict[int, Reservation] = {}

    def made(
        self,
        submit: Callable[[int], Any],
        read: Callable[[int, Any], T],
        what: Callable[[int], str],
    ) -> Iterator[tuple[int, T]]:
        """What is read from each answer as it comes, with its index."""

        def held(index: int) -> Any:
            read, sampled = self._sizes[index]
            usage = self._priced(Usage(calls=1, input_tokens=read, output_tokens=sampled))
            hold = self._holds[index] = self._base.budget.reserve(self._kind, usage)
            try:
                return submit(index)
            except BaseException:
                hold.commit(Usage())  # it was not sent
                raise

        def failed(index: int) -> None:
            self._holds[index].commit(Usage())  # it is not billed

        return self._base.service.gather(len(self._sizes), held, read, what, failed)

    def commit(self, index: int, answer: Any, sampled: int) -> None:
        """What the answer says that it came to."""
        cached = answer.prompt_cache_hit_tokens
        read = self._sizes[index][0] - cached
        self._holds[index].commit(self._priced(Usage(1, read, cached, sampled)))

    def _priced(self, usage: Usage) -> Usage:
        return self._base.prices.priced(usage) if self._base.prices else usage
