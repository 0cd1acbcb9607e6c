"""The tracker `wandb`: what a run's folder holds offline, and what a server receives."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_wandb import serving
from tracking import FIELDS, ProcessResult, killed_run, run_process, track
from wandb.proto.wandb_internal_pb2 import Record

from promptbake import Tracker
from promptbake.testing import TrackerSuite
from promptbake_wandb import wandb

KEY = "4e3d" * 10
TIMEOUT = 5.0  # seconds until wandb's process has written

REFUSED = """
import os, sys
from pathlib import Path
from promptbake import BakeError
from promptbake_wandb import wandb
for key in (None, "short", sys.argv[2]):
    if key:
        os.environ["WANDB_API_KEY"] = key
    tracker = wandb(timeout=0.5)
    try:
        tracker.start(Path(sys.argv[1]), {}, 0)
    except BakeError as error:
        print(error)
    tracker.finish()
"""

ONLINE = """
import sys
from pathlib import Path
from promptbake import StepMetrics
from promptbake_wandb import wandb
for first, last in ((0, 3), (2, 5)):
    tracker = wandb(project="ship", name="quartz", timeout=20)
    tracker.start(Path(sys.argv[1]), {"train": {"lr": 0.1}}, first)
    for step in range(first + bool(first), last + 1):
        tracker.log(StepMetrics(step, 5, 1, loss=(step + first) / 3))
    tracker.finish()
"""


def records(folder: Path) -> Iterator[Record]:
    """The whole records of the .wandb files, which `wandb sync` reads.

    Their format is that of LevelDB's log, after a header of 7 bytes.
    """
    for file in sorted((folder / "wandb").glob("*run-*/*.wandb")):
        content, at, parts = file.read_bytes(), 7, b""
        while at + 7 <= len(content):
            left = 32768 - at % 32768  # of the block
            if left < 7:
                at += left
                continue
            _, length, kind = struct.unpack_from("<IHB", content, at)
            at += 7 + length
            if at > len(content):
                break  # torn
            parts += content[at - length : at]
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(parts)
                parts = b""


def rows(folder: Path) -> list[dict[str, Any]]:
    """A mapping for each row of the histories."""
    histories = [record.history for record in records(folder) if record.HasField("history")]
    return [
        {each.key or each.nested_key[0]: json.loads(each.value_json) for each in history.item}
        for history in histories
    ]


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The rows' fields of StepMetrics, once wandb's process has written them all."""
    file = folder / "wandb" / "history.jsonl"
    expected = len(file.read_bytes().splitlines()) if file.exists() else 0
    deadline = time.monotonic() + TIMEOUT
    while len(written := rows(folder)) < expected and time.monotonic() < deadline:
        time.sleep(0.001)
    return [{name: row[name] for name in FIELDS if name in row} for row in written]


def files_with_key(folder: Path) -> list[Path]:
    """The files that the key is in."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [file for file in files if KEY.encode() in file.read_bytes()]


def wait_for(folder: Path, field: str) -> Record:
    """The first record of that kind, which wandb's process may be about to write."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for record in records(folder):
            if record.HasField(field):
                return record
    raise AssertionError(f"no {field} record was written")


class TestWandb(TrackerSuite):
    keys = ("WANDB_API_KEY",)
    timeout = TIMEOUT

    @pytest.fixture
    def make_tracker(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Tracker]:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        return lambda: wandb(mode="offline")

    def recorded(self, folder: Path) -> list[dict[str, Any]]:
        return recorded(folder)


def test_a_run_that_resumes_replaces_the_earlier_one(tmp_path: Path) -> None:
    track(wandb(mode="offline"), tmp_path, 0, 3)
    recorded(tmp_path)
    times = [row["_timestamp"] for row in rows(tmp_path)]
    track(wandb(mode="offline"), tmp_path, 2, 4)
    assert [row["step"] for row in recorded(tmp_path)] == [0, 1, 2, 3, 4]
    assert [row["_timestamp"] for row in rows(tmp_path)][:3] == times[:3]
    assert [row["_step"] for row in rows(tmp_path)] == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "wandb").glob("*run-*"))) == 1  # `wandb sync` sends one run


@pytest.mark.parametrize(("last", "code"), [(9, 0), (8, 1)])
def test_a_run_has_its_names_its_config_and_its_end(last: int, code: int, tmp_path: Path) -> None:
    """It has failed where its last step was not logged."""
    track(wandb(mode="offline", project="ship", entity="crew"), tmp_path, 0, last)
    run = wait_for(tmp_path, "run").run
    assert (run.project, run.entity, run.display_name) == ("ship", "crew", tmp_path.name)
    assert {each.key: each.value_json for each in run.config.update}["seed"] == "0"
    assert wait_for(tmp_path, "exit").exit.exit_code == code


def test_a_killed_process_has_written_in_the_runs_folder_alone(tmp_path: Path) -> None:
    create = 'from promptbake_wandb import wandb; tracker = wandb(mode="offline")'
    folder = killed_run(tmp_path, create, 0.5, WANDB_API_KEY=KEY, WANDB_BASE_URL="SERVICE")
    assert [(row["step"], row["loss"]) for row in rows(folder)] == [(n, n / 3) for n in range(4)]
    track(wandb(mode="offline"), folder, 3, 5)
    assert [row["step"] for row in recorded(folder)] == [0, 1, 2, 3, 4, 5]


def test_a_run_that_does_not_start_online_is_refused_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "pirate"
    folder.mkdir()
    closed = "http://127.0.0.1:9"
    result = run_process(tmp_path, REFUSED, folder, KEY, WANDB_BASE_URL=closed)
    assert result.err == ""
    problems = ("WANDB_API_KEY", "40+ characters", f"{closed}/graphql")
    for line, problem in zip(result.out.splitlines(), problems, strict=True):
        assert line.startswith("tracker wandb: ")
        assert problem in line
        assert "--set options.trackers.wandb.mode=offline" in line
    assert KEY not in result.out
    assert not files_with_key(folder)


def test_a_server_receives_what_was_logged(tmp_path: Path) -> None:
    folder = tmp_path / "pirate"
    folder.mkdir()
    with serving() as server:
        environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.address}
        result = run_process(tmp_path, ONLINE, folder, **environment)
    assert replace(result, connections=0) == ProcessResult(0, "", "", [], 0)
    first, second = server.history
    assert set(server.names.values()) == {"quartz"}
    assert server.configs[second]["train"] == {"value": {"lr": 0.1}}
    assert [row["loss"] for row in server.history[first]] == [0, 1 / 3, 2 / 3, 1]
    assert [row["loss"] for row in server.history[second]] == [0, 1 / 3, 2 / 3, 5 / 3, 2, 7 / 3]
    assert server.exit_codes == {first: 1, second: 0}
    assert not files_with_key(folder)
