"""What a person sees while a stage works: progress bars and lines, on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar(Protocol):
    """Work with a known amount."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """So much more is done; the note stands behind the bar."""
        ...


class Reporter(Protocol):
    """Tells a person how work goes."""

    def say(self, line: str) -> None:
        """One line that stays."""
        ...

    def bar(self, what: str, total: int, done: int = 0) -> _BarContext:
        """A bar for `total` pieces of work of which `done` were there before."""
        ...


class _BarContext(Protocol):
    def __enter__(self) -> Bar: ...

    def __exit__(self, *exc: object) -> bool | None: ...


class RichReporter:
    """Bars with an estimate of the time left, in colour on a terminal only."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(line, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Bar]:
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
            yield _RichBar(progress, task)


class _RichBar:
    def __init__(self, progress: Progress, task: object) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=amount, note=note)  # type: ignore[arg-type]


class SilentReporter:
    """Tells nobody."""

    def say(self, line: str) -> None:
        """Nothing."""

    @contextmanager
    def bar(self, what: str, total: int, done: int = 0) -> Iterator[Bar]:
        """No bar."""
        yield _SilentBar()


class _SilentBar:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass
