"""The list of runs: how far each came, and what cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from verify_example import RESULT

from promptbake.distill.checkpoints import digests
from promptbake.errors import BakeError
from promptbake.report.run_list import RunSummary, list_runs
from promptbake.runs.run_folder import Run

CONFIG = {"model": {"name": "mock"}}
Make = Callable[[Run], None]


def with_data(run: Run) -> None:
    run.begin("data", {}, CONFIG)
    run.finish("data", 1.0, prompt="pirate", conversations=40)


def baking(run: Run) -> None:
    with_data(run)
    run.begin("bake", {}, CONFIG)
    run.metrics.write_text("".join(f'{{"step": {n}, "steps": 9, "epoch": 1}}\n' for n in range(4)))


def baked(run: Run) -> None:
    baking(run)
    run.adapter.mkdir()
    (run.adapter / "weights").write_text("as baked")
    run.finish("bake", 2.0, steps=9, adapter=digests(run.adapter))


def verified(run: Run) -> None:
    baked(run)
    RESULT.save(run.verify)


def summary(folder: Path, make: Make) -> RunSummary:
    run = Run(folder / "pirate")
    make(run)
    (found,) = list_runs(folder)
    assert found.run == run.path
    return found


@pytest.mark.parametrize(
    ("make", "status", "line"),
    [
        (lambda run: run.begin("data", {}, CONFIG), "begun", "data begun"),
        (with_data, "data", "data"),
        (baking, "baking", "bake 3/9 steps"),
        (baked, "baked", "baked"),
        (verified, "passed", "verified: passed"),
    ],
)
def test_the_status_is_how_far_a_run_came(
    tmp_path: Path, make: Make, status: str, line: str
) -> None:
    found = summary(tmp_path, make)
    assert (found.status, found.status_line, found.problem) == (status, line, "")
    assert found.model == "mock"


def test_a_verified_run_has_its_prompt_and_its_gap(tmp_path: Path) -> None:
    found = summary(tmp_path, verified)
    assert (found.prompt, found.gap_closed) == ("yoda", RESULT.gap_closed)  # verify.json's
    assert found.gap_closed_ci95 == RESULT.kl.gap_closed_ci95
    assert (found.step, found.steps) == (9, 9)
    assert summary(tmp_path / "other", baked).prompt == "pirate"  # run.json's


def test_a_run_below_its_threshold_has_failed(tmp_path: Path) -> None:
    def failed(run: Run) -> None:
        baked(run)
        RESULT.model_copy(update={"passed": False}).save(run.verify)

    assert summary(tmp_path, failed).status_line == "verified: FAILED"


def test_steps_of_an_earlier_bake_or_of_damaged_metrics_are_not_shown(tmp_path: Path) -> None:
    def begun_anew(run: Run) -> None:
        baking(run)
        run.begin("bake", {"seed": 1}, CONFIG, clean=False)

    def damaged(run: Run) -> None:
        baking(run)
        run.metrics.write_text("{}\n")

    for name, make in (("anew", begun_anew), ("damaged", damaged)):
        found = summary(tmp_path / name, make)
        assert (found.status_line, found.step) == ("bake begun", None)


def test_a_changed_adapter_and_a_damaged_result_are_named(tmp_path: Path) -> None:
    def changed(run: Run) -> None:
        verified(run)
        (run.adapter / "weights").write_text("by hand")

    def cut(run: Run) -> None:
        verified(run)
        run.verify.write_bytes(run.verify.read_bytes()[:50])

    found = summary(tmp_path / "a", changed)
    assert (found.status, found.gap_closed) == ("damaged", None)
    assert found.status_line.endswith("adapter: weights: not as the bake left it")
    found = summary(tmp_path / "b", cut)
    assert found.status == "damaged"
    assert "verify.json: is no verify.json of this version: is not JSON" in found.status_line


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "expected a JSON object"),
        ('{"schema": 2, "versions": {}, "stages": {}}', "schema: expected 1; found 2"),
        (
            '{"schema": 1, "versions": {}, "stages": {}, "config": {"model": 5}}',
            "config.model: expected a JSON object",
        ),
        (
            '{"schema": 1, "versions": {}, "stages": '
            '{"bake": {"inputs": {}, "done": true, "seconds": 1, "adapter": "x"}}}',
            "stages.bake.adapter: expected a JSON object",
        ),
    ],
)
def test_a_run_that_cannot_be_read_is_a_row_with_the_reason(
    tmp_path: Path, content: str, problem: str
) -> None:
    verified(Run(tmp_path / "good"))
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "run.json").write_text(content)
    found = {each.run.name: each for each in list_runs(tmp_path)}
    assert found.keys() == {"good", "bad"}
    assert found["bad"].status == "unreadable"
    assert problem in found["bad"].problem
    assert found["good"].status == "passed"


def test_the_latest_comes_first_and_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        run = Run(tmp_path / name)
        with_data(run)
        os.utime(run.record_file, (10**9 - age, 10**9 - age))
    (tmp_path / "bench").mkdir()
    (tmp_path / ".new.promptbake.lock").touch()
    assert [each.run.name for each in list_runs(tmp_path)] == ["new", "middle", "old"]
    assert [each.run.name for each in list_runs(tmp_path / "old")] == ["old"]
    assert list_runs(tmp_path / "bench") == []


def test_what_is_printed_as_json_can_be_read(tmp_path: Path) -> None:
    record = json.loads(json.dumps(summary(tmp_path, verified).as_json()))
    assert record["run"] == str(tmp_path / "pirate")
    assert (record["status"], record["gap_closed"]) == ("passed", RESULT.gap_closed)
    assert record["updated"].startswith("20")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match="nowhere: is no folder; give the one that the runs are in"):
        list_runs(tmp_path / "nowhere")
