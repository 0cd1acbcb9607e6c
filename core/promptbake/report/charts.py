"""The report's charts: inline SVG that takes its colours and its type from the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Point = tuple[int, float]  # step, nats per response token

WIDTH = 440  # of every chart, in its own units; the page scales it
# Stand-ins that are drawn with here and become the page's CSS variables, light or dark.
INK, MUTED, QUIET, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404", "#050505"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    QUIET: "--quiet",
    LINE: "--line",
    ACCENT: "--accent",
}
SETTINGS: dict[Any, Any] = {  # matplotlib's stubs list the keys from 3.11 on, and not before
    "svg.fonttype": "none",  # text stays text: it can be selected, and the page sets its font
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
}


def training_curves(losses: Sequence[Point], held_out: Sequence[Point], window: int) -> Markup:
    """Both curves on one scale, in nats per response token.

    Args:
        losses: The training loss of each step.
        held_out: The held-out KL at the steps where it was measured.
        window: Steps in the running mean of the loss.
    """
    steps, values = zip(*losses, *held_out, strict=True)
    with _style("training"):
        figure, axes = _figure(height=262, right=58)  # for the last label
        _over_steps(axes, steps, values)
        if losses:
            x, y = zip(*losses, strict=True)
            axes.plot(x, y, color=QUIET, linewidth=0.8, marker="o", markersize=1.8)
            axes.plot(x, _running_mean(y, window), color=MUTED, linewidth=1.6)
        if held_out:
            x, y = zip(*held_out, strict=True)
            axes.plot(x, y, color=ACCENT, linewidth=2, marker="o", markersize=5, clip_on=False)
            _note(axes, f"{y[-1]:.4f}", at=held_out[-1], shift=(9, -1), va="center")
        curves = {"Training loss": losses, "Held-out KL": held_out}
        label = ". ".join(_described(name, each) for name, each in curves.items() if each)
        return _inline(figure, "training", label)


def _described(name: str, points: Sequence[Point]) -> str:
    ends = [points[0], points[-1]] if len(points) > 1 else points
    values = ", ".join(f"{value:.4f} at step {step}" for step, value in ends)
    return f"{name} in nats per token: {values}"


def gap_intervals(
    runs: Mapping[str, tuple[float, tuple[float, float] | None]],
) -> Markup:
    """The share of the gap closed by run, with its 95 % interval where there is one."""
    label = "Gap closed in per cent: " + ", ".join(
        f"{name} {100 * gap:.1f}"
        + ("" if ci is None else f" ({100 * ci[0]:.1f} to {100 * ci[1]:.1f})")
        for name, (gap, ci) in runs.items()
    )
    with _style("gaps"):
        figure, axes = _figure(height=62 + 34 * len(runs), left=40, right=64, top=2)
        for row, (gap, ci) in enumerate(runs.values()):
            if ci is not None:
                axes.plot([100 * end for end in ci], [row, row], color=ACCENT, linewidth=2)
            axes.plot([100 * gap], [row], color=ACCENT, marker="o", markersize=7, clip_on=False)
            end = max(gap, ci[1] if ci else gap)
            _note(axes, f"{100 * gap:.1f} %", at=(100 * end, row), shift=(9, -1), va="center")
        low = min(0.0, *(min(gap, ci[0] if ci else gap) for gap, ci in runs.values()))
        axes.set_xlim(100 * low, 100)
        axes.set_ylim(len(runs) - 0.4, -0.6)
        axes.set_yticks(range(len(runs)), list(runs))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xlabel("per cent of the gap closed; 100 is the prompt itself", loc="left")
        return _inline(figure, "gaps", label)


@contextmanager
def _style(name: str) -> Iterator[None]:
    """matplotlib's own defaults and ours, whatever the user's settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS | {"svg.hashsalt": name})
        yield


def _figure(
    height: int = 222, left: int = 52, right: int = 14, top: int = 32, bottom: int = 44
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    figure.subplots_adjust(
        left=left / WIDTH, right=1 - right / WIDTH, bottom=bottom / height, top=1 - top / height
    )
    return figure, figure.add_subplot()


def _over_steps(axes: Axes, steps: Sequence[int], values: Sequence[float]) -> None:
    low, high = min(0.0, *values), max(0.0, *values)
    room = (high - low or 1.0) * 0.12
    last = max(1, *steps)
    axes.set_xlim(-0.02 * last, 1.02 * last)
    axes.set_ylim(low - room if low < 0 else 0, high + room)
    axes.spines["bottom"].set_visible(low == 0)
    if low < 0:
        axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("step")
    _note(axes, "nats per token", at=(0, 1), shift=(-52, 18), xycoords="axes fraction", color=MUTED)


def _note(
    axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **style: Any
) -> None:
    axes.annotate(text, at, shift, textcoords="offset points", **style)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    spans = (values[max(0, end - window) : end] for end in range(1, len(values) + 1))
    return [sum(span) / len(span) for span in spans]


def _inline(figure: Figure, name: str, label: str) -> Markup:
    """A figure as a part of a page: ids of its own, and the page's colours and font."""
    buffer = StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    head, _, body = buffer.getvalue().partition("</defs>")  # the head is for a file of its own
    body = re.sub(r'font[\w-]*: [^;"]*;? ?', "", body)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body).replace("xlink:href", "href")
    for stand_in, variable in VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    box = head[head.index("viewBox=") :].split('"')[1]
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="{box}">{body}'
    )
