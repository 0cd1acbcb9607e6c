"""What the commands that look at several runs print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from promptbake.cli.console import out
from promptbake.report.comparison import NOTHING, Comparison, table
from promptbake.report.recheck import BY_MODELS, Recheck
from promptbake.report.run_list import RunSummary


def print_runs(folder: str, runs: Sequence[RunSummary]) -> None:
    """One row a run, the latest first."""
    if not runs:
        out.print(f"{folder}: holds no run; begin one with `promptbake data PROMPT`")
        return
    shown = Table(box=None, pad_edge=False)
    for name in ("run", "prompt", "model", "gap closed", "updated", "status"):
        shown.add_column(name, overflow="fold")
    for each in runs:
        shown.add_row(
            str(each.run),
            each.prompt or NOTHING,
            each.model or NOTHING,
            NOTHING if each.gap_closed is None else f"{each.gap_closed:.3f}",
            f"{each.updated:%Y-%m-%d %H:%M}" if each.updated else NOTHING,
            each.status_line,
        )
    out.print(shown)


def print_recheck(recheck: Recheck) -> None:
    """One line a difference; how many values were recomputed, and measured again."""
    for each in recheck.differences:
        out.print(each.line, soft_wrap=True)
    count = len(recheck.differences)
    line = f"{recheck.run}: {recheck.numbers} values recomputed from its files"
    if recheck.by_models is not None:
        line += f", {recheck.by_models} by the models (to within {BY_MODELS.words})"
    out.print(f"{line}: {count} difference{'' if count == 1 else 's'}", soft_wrap=True)


def print_comparison(comparison: Comparison) -> None:
    """A column a run; rows of the same kind stand together."""
    shown = Table("", *(str(run.folder) for run in comparison.runs), box=None, pad_edge=False)
    group = ""
    for row in table(comparison):
        if row.group != group:
            group = row.group
            shown.add_row(group, style="bold")
        shown.add_row(f"  {row.name}", *row.cells)
    out.print(shown)
    for note in comparison.notes:
        out.print(note, soft_wrap=True)
