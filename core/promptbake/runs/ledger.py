"""The ledger: what a run has spent, on disk, and the cap that it stays under."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from promptbake.costs import NoBudget, Reservation, Usage
from promptbake.documents.typed import Amount, Count, Document, read_own_lines
from promptbake.errors import BudgetError
from promptbake.files import JsonLines

CENT = 1e-9  # dollars: rounding, and less than any service bills


class Ledger:
    """A budget in a run's costs.jsonl: a line for each reservation, one for each commit.

    A reservation that a kill left open has been sent, so it counts as spent. Without
    `max_dollars` there is no cap, and the ledger is kept all the same. `claim` is called before
    the file is opened: the folder must be known as a run's.
    """

    def __init__(
        self, path: Path, max_dollars: float | None, claim: Callable[[], None] = lambda: None
    ) -> None:
        self._path, self._cap, self._claim = path, max_dollars, claim
        self.stage = ""  # the one that runs, which names what is reserved
        self._file: JsonLines | None = None
        # The last line of a number is the one that counts.
        lines = read_own_lines(_Line, path)
        self._reservations = {line.id: (line.what, line.usage()) for line in lines}
        self._dollars = sum(usage.dollars for _, usage in self._reservations.values())
        self._next = max(self._reservations, default=-1) + 1

    @property
    def capped(self) -> bool:
        """Whether there is a cap."""
        return self._cap is not None

    @property
    def dollars(self) -> float:
        """Spent or reserved so far."""
        return self._dollars

    def by_work(self) -> dict[str, Usage]:
        """The usage so far, by kind of work."""
        totals: dict[str, Usage] = {}
        for what, usage in self._reservations.values():
            totals[what] = totals.get(what, Usage()) + usage
        return totals

    def reserve(self, what: str, usage: Usage) -> Reservation:
        """Reserve the most that the work may cost. Raises BudgetError.

        Where no stage runs, as in a chat, nothing is reserved or recorded.
        """
        if not self.stage:
            return NoBudget()
        spent = self.dollars
        if self._cap is not None and spent + usage.dollars > self._cap + CENT:
            raise BudgetError(
                f"budget.max_dollars = {self._cap:g}: ${spent:.4f} is spent, and the next "
                f"{what} may take ${usage.dollars:.4f}; raise it and run the same command "
                "to resume"
            )
        what = f"{self.stage}: {what}"
        number, self._next = self._next, self._next + 1
        self.write(number, what, usage, committed=False)
        return LedgerReservation(self, number, what)

    def start_anew(self) -> None:
        """The run has been moved away with its costs, and a new one begins."""
        self.close()
        self._reservations.clear()
        self._dollars, self._next = 0.0, 0

    def close(self) -> None:
        """Close the file, until something is reserved again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, number: int, what: str, usage: Usage, committed: bool) -> None:
        """Record a reservation, or what the work cost."""
        _, before = self._reservations.get(number, (what, Usage()))
        self._dollars += usage.dollars - before.dollars
        self._reservations[number] = (what, usage)
        if self._file is None:
            self._claim()
            self._file = JsonLines(self._path)
        line = {"id": number, "what": what, "committed": committed}
        used = {name: value for name, value in vars(usage).items() if value}
        self._file.append(line | used)


class LedgerReservation:
    """A reservation that is not committed yet."""

    def __init__(self, ledger: Ledger, number: int, what: str) -> None:
        self._ledger, self._number, self._what = ledger, number, what

    def commit(self, usage: Usage) -> None:
        """Record what the work cost."""
        self._ledger.write(self._number, self._what, usage, committed=True)


class _Line(Document):
    """A line of costs.jsonl."""

    id: Count
    what: str
    committed: bool
    calls: Count = 0
    input_tokens: Count = 0
    cached_input_tokens: Count = 0
    output_tokens: Count = 0
    train_tokens: Count = 0
    dollars: Amount = 0.0
    unpriced_calls: Count = 0

    def usage(self) -> Usage:
        return Usage(**{name: getattr(self, name) for name in vars(Usage())})
