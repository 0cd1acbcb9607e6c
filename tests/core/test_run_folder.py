"""A run's record: what is stale, what resumes, and who may work in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptbake.errors import BakeError
from promptbake.runs.run_folder import Run

INPUTS = {"prompt": "abc", "data": {"temperatures": (0.5, 1.0), "provider": "self"}}
CONFIG = {"seed": 0}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs" / "yoda")


def test_a_stage_is_fresh_then_resumed_then_done(run: Run) -> None:
    assert run.state("data", INPUTS) == ("fresh", [])
    run.begin("data", INPUTS, CONFIG)
    assert run.state("data", INPUTS) == ("resumed", [])
    run.finish("data", 1.0, conversations=7)
    assert run.state("data", INPUTS) == ("done", [])
    assert run.stage("data")["conversations"] == 7
    assert run.state("bake", INPUTS) == ("fresh", [])


@pytest.mark.parametrize(
    ("inputs", "changed"),
    [
        (INPUTS | {"prompt": "abd"}, ["prompt"]),
        (INPUTS | {"seed": 1}, ["seed"]),
        ({"data": INPUTS["data"]}, ["prompt"]),
        (
            {"prompt": "x", "data": {"temperatures": [0.5], "provider": "self", "held_out": 3}},
            ["data.held_out", "data.temperatures", "prompt"],
        ),
        (INPUTS | {"data": None}, ["data"]),
    ],
)
def test_a_stage_whose_inputs_changed_is_fresh_and_says_which(
    run: Run, inputs: dict[str, Any], changed: list[str]
) -> None:
    run.begin("data", INPUTS, CONFIG)
    run.finish("data", 1.0)
    assert run.state("data", inputs) == ("fresh", changed)


texts = st.text(max_size=2)
values = st.recursive(
    st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=6,
)
inputs = st.dictionaries(st.sampled_from("abc"), values, min_size=1, max_size=3)


@settings(max_examples=50)
@given(inputs, inputs)
def test_a_stage_is_stale_exactly_when_its_inputs_differ(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, Any], after: dict[str, Any]
) -> None:
    run = Run(tmp_path_factory.getbasetemp() / "property")
    run.begin("data", before, CONFIG)
    state, changed = run.state("data", after)
    assert (state == "resumed") == (before == after)
    assert bool(changed) == (state == "fresh")


def test_seconds_add_up_over_what_was_cut_short_and_begin_anew_with_other_inputs(run: Run) -> None:
    for _ in range(2):
        run.begin("data", INPUTS, CONFIG)
        run.finish("data", 1.26)
    assert run.stage("data")["seconds"] == 2.6
    assert run.stage("data")["done"]
    run.begin("data", INPUTS | {"prompt": "x"}, CONFIG)
    assert run.stage("data") == {
        "inputs": {"prompt": "x", "data": {"temperatures": [0.5, 1.0], "provider": "self"}},
        "done": False,
        "seconds": 0.0,
    }


def test_the_record_keeps_the_config_the_versions_and_the_other_stages(run: Run) -> None:
    run.begin("data", INPUTS, CONFIG)
    run.finish("data", 1.0)
    run.begin("bake", {}, {"seed": 1})
    assert run.record["schema"] == 1
    assert run.record["config"] == {"seed": 1}
    assert {"python", "promptbake", "torch", "peft", "pydantic"} <= set(run.record["versions"])
    assert "pytest" not in run.record["versions"]
    assert run.record["versions"]["promptbake"] == "0.1.0"
    assert run.stage("data")["done"]
    assert list(run.record["stages"]) == ["data", "bake"]


def test_a_damaged_record_is_refused_with_the_way_out(run: Run) -> None:
    assert run.record == {}
    run.path.mkdir(parents=True)
    run.record_file.write_text("{")
    with pytest.raises(
        BakeError, match=rf"run\.json: is not JSON: .*delete {run.path} to start anew"
    ):
        run.state("data", INPUTS)


def test_runs_are_archived_one_after_another(run: Run) -> None:
    for number in (1, 2):
        run.begin("data", INPUTS, CONFIG)
        (run.path / "mark").write_text(str(number))
        aside = run.archive()
        assert aside == run.path.with_name(f"yoda~{number}")
        assert (aside / "mark").read_text() == str(number)
        assert not run.path.exists()


def test_only_one_process_works_in_a_run(run: Run) -> None:
    program = """if True:
        import sys
        from pathlib import Path
        from promptbake import BakeError
        from promptbake.runs.run_folder import Run
        try:
            with Run(Path(sys.argv[1])).locked():
                print("in")
        except BakeError as error:
            print(error)
    """
    command = [sys.executable, "-c", program, str(run.path)]
    with run.locked():
        outside = subprocess.run(command, capture_output=True, text=True, check=True)
    assert outside.stdout.startswith(f"{run.path}: another promptbake is running in this run")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "in\n"
    assert not run.path.exists()


def test_who_locks_a_run_clears_what_a_kill_left_half_written(run: Run) -> None:
    run.begin("data", INPUTS, CONFIG)
    half = run.path / ".data.jsonl-1234.partial"
    half.touch()
    with run.locked():
        assert not half.exists()
        assert run.record_file.exists()


def test_a_run_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "yoda").touch()
    with pytest.raises(BakeError, match="yoda: is not a folder"), Run(tmp_path / "yoda").locked():
        pass


@pytest.mark.parametrize("path", [".", "..", "../yoda", "../yoda/."])
def test_a_run_may_be_named_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    folder = tmp_path / "yoda"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.chdir(folder / "inner" if path == ".." else folder)
    run = Run(Path(path))
    with run.locked():
        run.begin("data", INPUTS, CONFIG)
    assert (folder / "run.json").exists()
    assert run.archive().resolve() == tmp_path / "yoda~1"
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.suffix != ".lock") == [
        "yoda~1"
    ]
