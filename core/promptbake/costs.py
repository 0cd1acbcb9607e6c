"""What a run may spend, as those who spend it see it."""

from __future__ import annotations

from typing import Protocol

from promptbake.types import Usage


class Reservation(Protocol):
    """Money that is kept back for work that has been sent."""

    def commit(self, usage: Usage) -> None:
        """The work is done, and this is what it came to; `Usage()` where it came to nothing."""
        ...


class Budget(Protocol):
    """What a run may spend, and what it has spent."""

    @property
    def capped(self) -> bool:
        """Whether there is a cap, so that a price must be known."""
        ...

    def reserve(self, what: str, usage: Usage) -> Reservation:
        """Keep back what the work may come to at most, before it is sent.

        `what` is the kind of work, as in `types.Work`. Raises BudgetError where the cap would be
        passed. Work that is never settled counts as spent.
        """
        ...


class NoBudget:
    """Keeps nothing back and no record: for what is outside a run."""

    capped = False

    def reserve(self, what: str, usage: Usage) -> NoBudget:
        """Nothing is held."""
        return self

    def commit(self, usage: Usage) -> None:
        """Nothing is settled."""
