"""A comparison of runs for a person: one page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from promptbake.errors import BakeError
from promptbake.files import write_atomic
from promptbake.report.comparison import DIFFERING, NOTHING, Comparison, Row, table
from promptbake.report.formats import open_environment

OPTIONS = "options."  # of plugins: they may hold what is not for everybody, such as addresses


def write(comparison: Comparison, file: Path) -> None:
    """Write the page. The same runs give the same bytes.

    The plugins' own options are not on it, as on a report. Raises BakeError where `file` is a
    folder.
    """
    if file.is_dir():
        raise BakeError(f"--html {file}: is a folder; give a file, such as {file / 'compare.html'}")
    rows = [row for row in table(comparison) if not _is_option(row)]
    hidden = sum(key.startswith(OPTIONS) for key in comparison.differing_settings)
    template = (files("promptbake") / "templates" / "compare.html.j2").read_text("utf-8")
    html = (
        open_environment()
        .from_string(template)
        .render(
            runs=comparison.runs,
            nothing=NOTHING,
            chart=_chart(comparison),
            groups=_groups(rows),
            notes=comparison.notes,
            hidden_options=hidden,
        )
    )
    write_atomic(file, html)


def _is_option(row: Row) -> bool:
    return row.group == DIFFERING and row.name.startswith(OPTIONS)


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(group, list(members)) for group, members in groupby(rows, lambda row: row.group)]


def _chart(comparison: Comparison) -> str:
    from promptbake.report import charts  # matplotlib takes a while to import

    gaps = [(each.kl.gap_closed, each.kl.gap_closed_ci95) for each in comparison.results]
    return charts.gap_intervals({f"#{n}": gap for n, gap in enumerate(gaps, start=1)})
