"""The tracker `trackio`: what its database holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracking import killed_run, track

from promptbake import BakeError, Tracker
from promptbake.testing import TrackerSuite
from promptbake_trackio import trackio
from promptbake_trackio.tracker import open_storage

COMMANDS = """
import json, sys
from trackio.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = [*arguments, "--project", "ship", "--json"]
    main()
    print("--")
"""


def recorded(folder: Path) -> list[dict[str, Any]]:
    """What trackio's storage reads of the run, without the times."""
    rows = open_storage(folder / "trackio").get_logs("promptbake", folder.name)
    return [{name: value for name, value in row.items() if name != "timestamp"} for row in rows]


class TestTrackio(TrackerSuite):
    @pytest.fixture
    def make_tracker(self) -> Callable[[], Tracker]:
        return trackio

    def recorded(self, folder: Path) -> list[dict[str, Any]]:
        return recorded(folder)


def test_trackio_s_command_reads_the_run(tmp_path: Path) -> None:
    for first, last in ((0, 3), (2, 4)):
        track(trackio(name="quartz", project="ship"), tmp_path, first, last)

    arguments = "list runs", "get run --run quartz", "get metric --run quartz --metric loss"
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([each.split() for each in arguments])],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        text=True,
        check=True,
    )
    runs, run, metric = map(json.loads, result.stdout.split("--\n")[:-1])
    assert runs["runs"] == ["quartz"]
    assert run["config"] == {"seed": 0}
    assert [(each["step"], each["value"]) for each in metric["values"]] == [
        (n, n / 3) for n in range(5)
    ]


def test_a_killed_process_has_written_in_the_runs_folder_alone(tmp_path: Path) -> None:
    folder = killed_run(
        tmp_path,
        "from promptbake_trackio import trackio; tracker = trackio()",
        HF_TOKEN="hf_0123456789",
        HF_ENDPOINT="SERVICE",
        TRACKIO_BUCKET_ID="crew/bucket",
        TRACKIO_SERVER_URL="SERVICE/?write_token=0",
    )
    assert [(row["step"], row["loss"]) for row in recorded(folder)] == [
        (n, n / 3) for n in range(4)
    ]
    track(trackio(), folder, 3, 5)
    assert [row["step"] for row in recorded(folder)] == [0, 1, 2, 3, 4, 5]


def test_a_project_that_trackio_rejects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match=r"^tracker trackio: .*registry-ship"):
        track(trackio(project="registry-ship"), tmp_path, 0, 1)
