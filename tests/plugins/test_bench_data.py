"""The benchmark of the data stage at its smallest: what it writes, and when it fails."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "ci"))
        yield importlib.import_module("bench_data")


@pytest.fixture(autouse=True)
def key(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bench.KEY_NAME, "")  # what the benchmark sets is undone


def test_the_bound_is_what_the_latency_allows(bench: Any) -> None:
    assert bench.Shape().bound == 2.0
    assert bench.Shape(conversations=4, in_flight=2, latency=0.01).bound == pytest.approx(0.02)


def test_the_bar_is_1_15_times_the_bound_for_the_best(bench: Any) -> None:
    shape = bench.Shape()
    passed = bench.compared(shape, [2.9, 2.2, 2.5])
    assert passed["seconds"] == {"best": 2.2, "median": 2.5, "all": [2.9, 2.2, 2.5]}
    assert passed["ratio"] == {"best": pytest.approx(1.1), "median": pytest.approx(1.25)}
    assert passed["bar"] == {"max": 1.15, "of": "best", "passed": True}
    assert bench.compared(shape, [2.299])["bar"]["passed"]
    assert not bench.compared(shape, [2.301])["bar"]["passed"]


def test_the_file_and_the_table_say_the_same_and_the_bar_is_the_exit_status(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench" / "data.json"

    status = bench.main(bench.Shape(4, 2, latency=0.01, repeats=2), file)

    result = json.loads(file.read_bytes())
    assert result["schema"] == 1
    assert result["shape"] == {"conversations": 4, "in_flight": 2, "latency": 0.01, "repeats": 2}
    assert result["bound"] == pytest.approx(0.02)
    assert len(result["seconds"]["all"]) == 2
    assert min(result["seconds"]["all"]) >= result["bound"]
    assert result["versions"]["openai"] == openai.__version__
    assert status == (0 if result["bar"]["passed"] else 1)
    printed = capsys.readouterr().out
    assert f"{result['seconds']['best']:.3f}" in printed
    assert f"{result['ratio']['median']:.3f}" in printed
    assert ("passed" if result["bar"]["passed"] else "FAILED") in printed
    assert os.environ[bench.KEY_NAME] not in file.read_text("utf-8")


def test_a_missed_bar_is_shown_on_a_narrow_terminal(bench: Any) -> None:
    shape = bench.Shape()
    shown = {name: getattr(shape, name) for name in vars(shape)}
    result = {"shape": shown, **bench.compared(shape, [2.5])}
    with (out := Console(width=20)).capture() as capture:
        bench.show(result, out)
    lines = capture.get().splitlines()
    assert lines[0].split() == ["repeat", "seconds", "bound", "ratio"]
    assert lines[1].split() == ["best", "2.500", "2.000", "1.250"]
    assert lines[3] == "the best takes at most 1.15 times the bound: FAILED"
