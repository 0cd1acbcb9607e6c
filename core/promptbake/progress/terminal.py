"""Progress as a person sees it: bars and lines on standard error, by rich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
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
from rich.text import Text

from promptbake.progress import Bar
from promptbake.redaction import printable, redact


class PlainConsole(Console):
    """Shows text from outside as it is: no markup, and control characters spelt out.

    Args:
        stderr: Whether it is standard error.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every string that is printed, alone or in a table, passes here."""
        return super().render_str(printable(text), **options)

    def write(self, piece: str) -> None:
        """Write a piece of a text that is still being generated, at once."""
        self.out(printable(piece), end="", highlight=False)
        self.file.flush()


class RichReporter:
    """Bars with an estimate of the time left, in colour on a terminal only."""

    def __init__(self) -> None:
        self._console = PlainConsole(stderr=True)

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(redact(line), soft_wrap=True)

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
        self._progress.update(self._task, note=escape(printable(redact(text))))

    def advance_estimate(self, amount: float) -> None:
        self._foreseen += amount
        self._show()

    def _show(self) -> None:
        shown = max(self._done, self._foreseen)
        if self._total is not None:
            shown = min(shown, self._total)
        self._progress.update(self._task, completed=shown)
