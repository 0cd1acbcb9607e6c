"""The tracker `trackio`: what its database holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracking import bake, run_apart
from trackio import sqlite_storage
from trackio.sqlite_storage import SQLiteStorage

from promptbake.errors import BakeError
from promptbake.interfaces import Tracker
from promptbake.testing import TrackerSuite
from promptbake.types import StepMetrics
from promptbake_trackio import trackio

KILLED = """
import os, signal, sys
from pathlib import Path
from promptbake.types import StepMetrics
from promptbake_trackio import trackio
tracker = trackio()
tracker.start(Path(sys.argv[1]), {"seed": 0}, 0)
for step in range(4):
    tracker.log(StepMetrics(step, 9, 1, loss=step / 3))
os.kill(os.getpid(), signal.SIGKILL)
"""


def told(folder: Path, project: str = "promptbake") -> list[dict[str, Any]]:
    """What trackio's storage reads of the run, without the times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_storage, "TRACKIO_DIR", folder / "trackio")
        found = SQLiteStorage.get_logs(project, folder.name)
    return [{name: value for name, value in row.items() if name != "timestamp"} for row in found]


def follow(folder: Path, first: int, last: int, **options: Any) -> None:
    """A session that goes on after step `first` and gets to step `last` of 9."""
    tracker = trackio(**options)
    tracker.start(folder, {"seed": 0}, first)
    for step in range(first + bool(first), last + 1):
        tracker.log(StepMetrics(step, 9, 1, loss=step / 3))
    tracker.finish()


class TestTrackio(TrackerSuite):
    @pytest.fixture
    def make_tracker(self) -> Callable[[], Tracker]:
        return trackio

    def told(self, folder: Path) -> list[dict[str, Any]]:
        return told(folder)


def test_trackio_itself_finds_the_run(tmp_path: Path) -> None:
    follow(tmp_path, 0, 3, name="quartz", project="ship")
    follow(tmp_path, 2, 4, name="quartz", project="ship")

    def ask(*arguments: str) -> Any:
        command = [str(Path(sys.executable).with_name("trackio")), *arguments, "--json"]
        environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
        return json.loads(subprocess.run(command, env=environment, capture_output=True).stdout)

    assert ask("list", "runs", "--project", "ship")["runs"] == ["quartz"]
    run = ("--project", "ship", "--run", "quartz")
    assert ask("get", "run", *run)["config"] == {"seed": 0}
    found = ask("get", "metric", *run, "--metric", "loss")["values"]
    assert [(each["step"], each["value"]) for each in found] == [(n, n / 3) for n in range(5)]


def test_a_killed_process_has_written_in_the_runs_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pirate"
    folder.mkdir()
    ended = run_apart(
        tmp_path,
        KILLED,
        folder,
        HF_TOKEN="hf_0123456789",
        HF_ENDPOINT="SERVICE",
        TRACKIO_BUCKET_ID="crew/bucket",
        TRACKIO_SERVER_URL="SERVICE/?write_token=0",
    )
    assert (ended.code, ended.out, ended.err) == (-signal.SIGKILL, "", "")
    assert (ended.files, ended.calls) == ([], 0)
    assert [(row["step"], row["loss"]) for row in told(folder)] == [(n, n / 3) for n in range(4)]
    follow(folder, 3, 5)
    assert [row["step"] for row in told(folder)] == [0, 1, 2, 3, 4, 5]


def test_a_project_that_trackio_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match=r"^tracker trackio: .*registry-ship"):
        follow(tmp_path, 0, 1, project="registry-ship")


def test_a_bake_is_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pirate"
    lines = bake(folder, monkeypatch, 'train.trackers=["jsonl", "trackio"]')
    assert told(folder) == lines
    assert lines[-1]["step"] == lines[-1]["steps"]
