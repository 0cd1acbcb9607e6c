"""`promptbake runs` and `promptbake compare`: what they print, and their exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import promptbake
from run_folder import MOCK, Finished, settings, tree


@pytest.fixture
def two_runs(finished: Finished, own_copy: Path, prompt: Path) -> tuple[Path, Path]:
    """The finished run, and another of which only the threshold of `verify` differs."""
    strict = shutil.copytree(finished.folder, own_copy.with_name("strict"))
    above = ["--run", strict, *settings("verify.min_gap_closed=0.99")]
    assert promptbake("verify", prompt, *MOCK, *above).code == 1
    return own_copy, strict


def test_runs_lists_what_there_is_and_why_one_cannot_be_read(
    finished: Finished, two_runs: tuple[Path, Path]
) -> None:
    shutil.copytree(finished.data, "runs/half")
    Path("runs/broken").mkdir()
    Path("runs/broken/run.json").write_text("{")
    before = tree(Path("runs"))
    result = promptbake("runs")
    assert (result.code, result.err) == (0, "")
    lines = {line.split()[0]: line for line in result.out.splitlines() if line.startswith("runs/")}
    for name, shown in (
        ("pirate", "verified: passed"),
        ("strict", "verified: FAILED"),
        ("half", " data"),
        ("broken", "unreadable: runs/broken/run.json: is not JSON"),
    ):
        assert shown in lines[f"runs/{name}"]
    assert lines["runs/half"].split()[1:3] == ["pirate", "mock"]
    printed = json.loads(promptbake("runs", "runs", "--json").out)
    status = {Path(each["run"]).name: each["status"] for each in printed["runs"]}
    expected = {"pirate": "passed", "strict": "failed", "half": "data", "broken": "unreadable"}
    assert status == expected
    assert tree(Path("runs")) == before


def test_a_bake_that_was_stopped_is_listed_with_its_steps(with_data: Path, prompt: Path) -> None:
    diverging = settings("train.lr=1e30", "train.epochs=1")
    assert promptbake("bake", prompt, *MOCK, *diverging).code == 2
    (listed,) = json.loads(promptbake("runs", "--json").out)["runs"]
    assert listed["status"] == "baking"
    assert listed["steps"] == 10
    assert 0 <= listed["step"] < 10


def test_no_runs_are_no_error_but_no_folder_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = promptbake("runs", "empty")
    assert (result.code, result.out) == (
        0,
        "empty: holds no run; begin one with `promptbake data PROMPT`\n",
    )
    assert json.loads(promptbake("runs", "empty", "--json").out)["runs"] == []
    assert promptbake("runs").complaint.startswith("runs: is no folder; give the one that")


def test_compare_sets_two_runs_side_by_side(two_runs: tuple[Path, Path]) -> None:
    before = tree(Path("runs"))
    result = promptbake("compare", *two_runs, "--html", "pages/two.html")
    assert (result.code, result.err) == (0, "")
    assert "threshold" in result.out
    assert "0.99: FAILED" in result.out
    assert result.out.endswith("pages/two.html\n")
    assert "2 runs compared" in Path("pages/two.html").read_text("utf-8")
    printed = json.loads(promptbake("compare", *two_runs, "--json").out)
    assert [each["passed"] for each in printed["runs"]] == [True, False]
    assert printed["same_held_out"] is True
    assert tree(Path("runs")) == before


def test_what_cannot_be_compared_exits_with_2(two_runs: tuple[Path, Path]) -> None:
    one, other = two_runs
    (other / "verify.json").unlink()
    assert "does not exist; run `promptbake verify`" in promptbake("compare", one, other).complaint
    assert promptbake("compare", one, "nowhere").complaint.startswith("nowhere: is no run")
    assert promptbake("compare", one).complaint.startswith("compare: 1 run is given")
    assert promptbake("compare").code == 2
    page = promptbake("compare", one, one, "--html", "runs")
    assert page.complaint.startswith("--html runs: is a folder")
