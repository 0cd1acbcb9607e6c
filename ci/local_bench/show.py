"""The table on the terminal and the plot of gap closed over seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from local_bench.records import TARGET, Machine, Outcome, PhaseName
from local_bench.summary import Bar, Row

LABELS = {
    "ours": "promptbake",
    "reference": "reference recipe",
    "sdft": "TRL SDFT",
    "sdft-defaults": "TRL SDFT, its defaults",
    "sft": "TRL SFT",
}
COLOURS = dict(zip(LABELS, ("#0b6e4f", "#b23a48", "#3d5a80", "#98c1d9", "#7d7d7d"), strict=True))
PHASES: tuple[PhaseName, ...] = ("sampling", "teacher", "training")
HEADS = (f"s to {TARGET:g}", "spread", "times", "gap", "at equal time", "GB", *PHASES, "of peak")


def table(rows: Sequence[Row], prompt: str) -> Table:
    """One prompt's contestants."""
    shown = Table(box=None, pad_edge=False, title=prompt, title_justify="left")
    for head in ("contestant", *HEADS):
        shown.add_column(head, justify="left" if head == "contestant" else "right")
    for row in rows:
        if row.prompt == prompt:
            shown.add_row(*cells(row))
    return shown


def cells(row: Row) -> list[str]:
    """A row of the table; what is a lower bound has a > before it."""
    more = "> " if row.time.at_least else ""
    seconds = row.time.seconds
    equal = "-" if row.gap_at_equal_time is None else f"{row.gap_at_equal_time:.2f}"
    rates = [row.tokens_per_second.get(phase) for phase in PHASES]
    return [
        LABELS[row.contestant],
        f"{more}{seconds.median:.0f}",
        f"{seconds.lowest:.0f} to {seconds.highest:.0f}" if row.seeds > 1 else "-",
        "-" if row.ratio is None else f"{more}{row.ratio:.1f}",
        f"{row.time.best_gap:.2f}",
        equal,
        f"{row.peak_bytes / 1e9:.1f}",
        *("-" if rate is None else f"{rate:.0f}" for rate in rates),
        f"{row.share_of_peak:.1%}",
    ]


def show(rows: Sequence[Row], bars: Sequence[Bar], machine: Machine, out: Console) -> None:
    """Print the tables, what could not be measured, and the bars."""
    out.width = max(out.width, 130)  # nothing is folded where there is no terminal
    for prompt in dict.fromkeys(row.prompt for row in rows):
        out.print(table(rows, prompt))
        for row in rows:
            if row.prompt == prompt and row.time.at_least:
                out.print(
                    f"{LABELS[row.contestant]} did not reach {TARGET:g} ({row.time.why}): its "
                    "seconds and its ratio are lower bounds"
                )
        out.print()
    for bar in bars:
        ratio = "not measured" if bar.ratio is None else f"{bar.ratio:.1f}"
        verdict = "passed" if bar.passed else "FAILED"
        out.print(
            f"{bar.prompt}: {LABELS[bar.contestant]} takes {ratio} times as long; "
            f"bar {bar.least:g} or more: {verdict}"
        )
    out.print(
        f"seconds: without loading the model and measuring the curve, interpolated between its "
        f"points; tokens/s: response tokens; of peak: {machine.matmul_gflops:g} GFLOP/s on "
        f"{machine.cores} threads",
        soft_wrap=True,
    )


def plot(outcomes: Sequence[Outcome], file: Path) -> None:
    """Gap closed over seconds: a panel a prompt, a line a seed, a colour a contestant."""
    prompts = list(dict.fromkeys(each.prompt for each in outcomes))
    figure = Figure(figsize=(6.4 * len(prompts), 4.2), layout="constrained")
    panels = figure.subplots(1, len(prompts), squeeze=False)[0]
    for prompt, axes in zip(prompts, panels, strict=True):
        labelled = set[str]()
        for each in (outcome for outcome in outcomes if outcome.prompt == prompt):
            points = [point for point in each.points if point.seconds > 0]  # of a logarithmic axis
            label = None if each.contestant in labelled else LABELS[each.contestant]
            labelled.add(each.contestant)
            axes.plot(
                [point.seconds for point in points],
                [point.gap_closed for point in points],
                color=COLOURS[each.contestant],
                label=label,
                linewidth=1.4,
                marker=".",
                markersize=3,
            )
        axes.axhline(TARGET, color="#444444", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_ylim(-0.25, 1.0)
        axes.set_title(prompt)
        axes.set_xlabel("seconds")
        axes.set_ylabel("share of the held-out gap closed")
        axes.legend(frameon=False, loc="upper left")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
