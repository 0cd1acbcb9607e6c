"""Who is told how work goes: the protocols, and a reporter that says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """Work with a known amount."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """So much more is done; the note stands behind the bar."""
        ...

    def advance_estimate(self, amount: float) -> None:
        """So much more is under way and as good as done: `advance` will confirm it."""
        ...

    def note(self, text: str) -> None:
        """What stands behind the bar from now on."""
        ...


class Reporter(Protocol):
    """Tells a person how work goes."""

    def say(self, line: str) -> None:
        """One line that stays."""
        ...

    def bar(self, what: str, total: int | None, done: int = 0) -> AbstractContextManager[Bar]:
        """A bar for `total` pieces of work, None where nobody knows; `done` were there before."""
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
    """Tells nobody."""

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
