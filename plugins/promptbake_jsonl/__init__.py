"""A tracker that writes metrics.jsonl, one line a step, in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from promptbake import (
    Factories,
    JsonLines,
    StepMetrics,
    Tracker,
    hookimpl,
    read_json_lines,
    write_atomic,
)

PROMPTBAKE_API = 2


class JsonlTracker:
    """Appends to metrics.jsonl; where a run resumes, the lines after its step are deleted."""

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """Keep the lines up to `step`, or none where the run begins."""
        path = folder / "metrics.jsonl"
        kept = [line for line in read_json_lines(path) if step and line["step"] <= step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._lines = JsonLines(path)

    def log(self, metrics: StepMetrics) -> None:
        """Append one line; what was not measured is left out."""
        line = {key: value for key, value in asdict(metrics).items() if value is not None}
        self._lines.append(line)

    def finish(self) -> None:
        """Close the file."""
        self._lines.close()


def jsonl() -> Tracker:
    """Write metrics.jsonl in the run's folder."""
    return JsonlTracker()


@hookimpl
def promptbake_register_trackers() -> Factories[Tracker]:
    """The tracker `jsonl`."""
    return {"jsonl": jsonl}
