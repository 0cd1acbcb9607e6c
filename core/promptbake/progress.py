"""What a person sees while a stage works: progress bars and lines, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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


class RichReporter:
    """Bars with an estimate of the time left, in colour on a terminal only."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False)

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """A bar; where there is no terminal, its end state alone."""
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total, completed=done, note="")
            yield _RichBar(progress, task, total, done)


class _RichBar:
    def __init__(self, progress: Progress, task: TaskID, total: int | None, done: int) -> None:
        self._progress, self._task, self._total = progress, task, total
        self._done, self._foreseen = float(done), float(done)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        if note:
            self.note(note)
        self._show()

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)

    def advance_estimate(self, amount: float) -> None:
        self._foreseen += amount
        self._show()

    def _show(self) -> None:
        shown = max(self._done, self._foreseen)
        if self._total is not None:
            shown = min(shown, self._total)
        self._progress.update(self._task, completed=shown)


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
