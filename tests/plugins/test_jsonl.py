"""metrics.jsonl has one line a step, whatever a kill leaves of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking import track

from promptbake import StepMetrics, Tracker, read_json_lines
from promptbake.testing import TrackerSuite
from promptbake_jsonl import jsonl


class TestJsonl(TrackerSuite):
    metrics_file = True

    @pytest.fixture
    def make_tracker(self) -> Callable[[], Tracker]:
        return jsonl

    def recorded(self, folder: Path) -> list[dict[str, Any]]:
        return read_json_lines(folder / "metrics.jsonl")


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_what_was_measured_and_nothing_else(tmp_path: Path) -> None:
    tracker = jsonl()
    tracker.start(tmp_path, {}, 0)
    tracker.log(StepMetrics(step=0, steps=2, epoch=0, held_out_kl=0.5))
    tracker.log(StepMetrics(1, 2, 1, loss=0.25, lr=0.0, tokens=3, seconds=0.5))
    tracker.finish()
    assert lines(tmp_path) == [
        {"step": 0, "steps": 2, "epoch": 0, "held_out_kl": 0.5},
        {"step": 1, "steps": 2, "epoch": 1, "loss": 0.25, "lr": 0.0, "tokens": 3, "seconds": 0.5},
    ]


@given(reached=st.integers(1, 4), saved=st.integers(0, 4), cut=st.integers(0, 30))
def test_a_run_that_resumes_has_each_step_once(
    tmp_path_factory: pytest.TempPathFactory, reached: int, saved: int, cut: int
) -> None:
    saved = min(saved, reached)
    folder = tmp_path_factory.mktemp("run")
    track(jsonl(), folder, 0, reached)
    path = folder / "metrics.jsonl"
    content = path.read_bytes()
    last_line = len(content) - content.rfind(b"\n", 0, -1) - 1
    if saved < reached:  # a kill truncates the last line only, and that is after the saved step
        path.write_bytes(content[: len(content) - min(cut, last_line)])
    track(jsonl(), folder, saved, 5)
    assert [line["step"] for line in lines(folder)] == list(range(6))
