"""A short run of the fuzzer: every input is taken, or refused with one line."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_no_input_of_the_short_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "ci"))
    fuzz = importlib.import_module("fuzz")
    found = list[str]()
    by_kind = fuzz.run(0, range(250, 500), found.append)
    assert found == []
    assert {counts.inputs for counts in by_kind.values()} <= {27, 28}
    assert all(counts.refused for counts in by_kind.values())
    assert sum(counts.refused for counts in by_kind.values()) < 250
