"""Progress: the protocols of a reporter and its bars, and a reporter that shows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """Work with a known amount."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` more as done; the note stands behind the bar."""
        ...

    def advance_estimate(self, amount: float) -> None:
        """Show work in flight as done already; `advance` confirms it."""
        ...

    def note(self, text: str) -> None:
        """Show a text behind the bar."""
        ...


class Reporter(Protocol):
    """Shows a person the progress."""

    def say(self, line: str) -> None:
        """One line that stays."""
        ...

    def bar(self, what: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
        """A bar for `total` items, None where that is unknown; `done` were done before."""
        ...


class DeferredBar:
    """Passes progress on to a bar that is opened later."""

    bar: Bar | None = None

    def advance_estimate(self, amount: float) -> None:
        """Tell the bar, if there is one yet."""
        if self.bar is not None:
            self.bar.advance_estimate(amount)

    def note(self, text: str) -> None:
        """Tell the bar, if there is one yet."""
        if self.bar is not None:
            self.bar.note(text)


class SilentReporter:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    @contextmanager
    def bar(self, what: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """No bar."""
        yield _SilentBar()


class _SilentBar:
    def note(self, text: str) -> None:
        pass

    def advance(self, amount: int = 1, note: str = "") -> None:
        pass

    def advance_estimate(self, amount: float) -> None:
        pass
