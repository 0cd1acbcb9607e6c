"""A tracker that writes metrics.jsonl, one line a step, in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptbake import (
    Factories,
    JsonLines,
    StepMetrics,
    Tracker,
    hookimpl,
    read_own_lines,
    write_atomic,
)

PROMPTBAKE_API = 2


class JsonlTracker:
    """Appends to metrics.jsonl; where a run resumes, the lines after its step are deleted."""

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """Keep the lines up to `step`, or none where the run begins."""
        path = folder / "metrics.jsonl"
        kept = [each for each in read_own_lines(StepMetrics, path) if step and each.step <= step]
        write_atomic(path, "".join(json.dumps(_line(each)) + "\n" for each in kept))
        self._lines = JsonLines(path)

    def log(self, metrics: StepMetrics) -> None:
        """Append one line; what was not measured is left out."""
        self._lines.append(_line(metrics))

    def finish(self) -> None:
        """Close the file."""
        self._lines.close()


def _line(metrics: StepMetrics) -> dict[str, Any]:
    return {key: value for key, value in asdict(metrics).items() if value is not None}


def jsonl() -> Tracker:
    """Write metrics.jsonl in the run's folder."""
    return JsonlTracker()


@hookimpl
def promptbake_register_trackers() -> Factories[Tracker]:
    """The tracker `jsonl`."""
    return {"jsonl": jsonl}
