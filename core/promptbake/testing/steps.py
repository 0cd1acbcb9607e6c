"""What trackers are tried on: a run's folder, its config and its steps; and what they recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from promptbake.interfaces import Tracker
from promptbake.runs.layers import resolve
from promptbake.runs.run_folder import Run
from promptbake.testing.sample_data import PROFILE
from promptbake.types import StepMetrics

FIELDS = tuple(field.name for field in fields(StepMetrics))
LAST = 6  # step of a run
ZERO = 5  # the step at which all that is measured is 0
TOLERANCE = 1e-6  # of a recorded value, relative: float32 will do
FILES = "record_file", "data", "held_out", "queries", "rejected", "costs", "verify", "report"
FOLDERS = "teacher_logprobs", "checkpoints", "adapter"


def steps(first: int, last: int, shift: float = 0.0) -> list[StepMetrics]:
    """A run's steps from `first` to `last`; by another shift each value is another one.

    The held-out KL is measured at every other step, and step `ZERO` is one where all is 0.
    """
    factor = 1 + shift
    start = StepMetrics(step=0, steps=LAST, epoch=0, held_out_kl=factor / 3)
    later = [
        StepMetrics(
            step=step,
            steps=LAST,
            epoch=1 + (step - 1) // 3,
            loss=factor / (step + 1.7),
            lr=factor * 1e-4 / (step + 0.3),
            tokens=round(factor * 1000) + 7919 * step,
            seconds=factor * (0.1 + step / 7),
            held_out_kl=factor / (step + 3) if step % 2 == 0 else None,
        )
        for step in range(max(first, 1), last + 1)
    ]
    metrics = [start, *later] if first == 0 else later
    return [
        replace(each, loss=0.0, lr=0.0, tokens=0, seconds=0.0) if each.step == ZERO else each
        for each in metrics
    ]


def config() -> dict[str, Any]:
    """A config as the core hands it over: tables in tables, lists and None."""
    settings: dict[str, Any] = resolve(PROFILE).config.model_dump(mode="json")
    settings["options"] = {"losses": {"toy": {"weights": [0.5, None, {"deep": []}], "note": "Ħm"}}}
    return settings


def run_folder(path: Path) -> Path:
    """A run's folder with what the stages before the training have written, and more."""
    run = Run(path)
    path.mkdir(parents=True)
    for file in (getattr(run, name) for name in FILES):
        file.write_text('{"schema": 1}\n')
    for folder in (getattr(run, name) for name in FOLDERS):
        folder.mkdir()
        (folder / "state").write_bytes(b"\x00\x01")
    return path


def follow(
    make_tracker: Callable[[], Tracker],
    folder: Path,
    logged: Iterable[StepMetrics],
    after: int = 0,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Let a new tracker follow a run, as the core does: an error of `logged` passes through it."""
    tracker = make_tracker()
    with ExitStack() as ending:
        tracker.start(folder, settings or config(), after)
        ending.callback(tracker.finish)
        for metrics in logged:
            tracker.log(metrics)


def check_steps(rows: Sequence[Mapping[str, object]], logged: Sequence[StepMetrics]) -> None:
    """Refuse other steps than those that were logged, or another order."""
    for row in rows:
        assert isinstance(row, Mapping), f"`recorded` gave {row!r}: expected a mapping for a step"
    recorded, expected = [row.get("step") for row in rows], [each.step for each in logged]
    assert recorded == expected, f"it recorded the steps {recorded}; logged were {expected}"


def check_values(
    rows: Sequence[Mapping[str, object]], logged: Sequence[StepMetrics], records: Sequence[str]
) -> None:
    """Refuse other values than those that were logged, of the fields that the tracker records."""
    for row, metrics in zip(rows, logged, strict=True):
        for name in FIELDS:
            value, expected = row.get(name), getattr(metrics, name)
            where = f"{name} of step {metrics.step}"
            if expected is None:
                continue
            if name not in records:
                assert value is None, f"{where} is recorded: add {name!r} to `records`"
                continue
            assert value is not None, (
                f"{where} is not recorded; what was recorded is {', '.join(row) or 'nothing'}: "
                "look for another name, and for a value that is taken for none since it is 0"
            )
            assert is_close(value, expected), (
                f"{where} is {value!r}, and was logged as {expected!r}: record values as they "
                "are, not rounded, not as text, losses in nats and rates per step"
            )


def is_close(value: object, expected: float) -> bool:
    """Whether a recorded value is the one that was logged."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isclose(value, expected, rel_tol=TOLERANCE)
