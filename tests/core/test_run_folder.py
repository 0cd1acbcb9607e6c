"""A run's record: what is stale, what resumes, and who may work in it."""

from __future__ import annotations

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
        BakeError, match=rf"run\.json: is not JSON: .*; move {run.path} away, or give --run"
    ):
        run.state("data", INPUTS)


def test_runs_are_archived_one_after_another(run: Run) -> None:
    for number in (1, 2):
        run.begin("data", INPUTS, CONFIG)
        run.data.write_text(str(number))
        notes = run.path / "notes.txt"
        notes.touch()  # the user's own
        with pytest.raises(BakeError, match=r"but notes\.txt is none of its files"):
            run.archive()
        notes.unlink()
        with run.recording_files():
            (run.path / "of a tracker").touch()
        aside = run.archive()
        assert aside == run.path.with_name(f"yoda~{number}")
        assert (aside / "data.jsonl").read_text() == str(number)
        assert not run.path.exists()


def test_who_locks_a_run_clears_what_a_kill_left_half_written(run: Run) -> None:
    run.begin("data", INPUTS, CONFIG)
    half = run.path / f".data.jsonl-{run.record['id']}-1234.partial"
    half.touch()
    other = run.path / ".data.jsonl-1234.partial"
    other.touch()
    with Run(run.path).locked():
        assert not half.exists()
        assert other.exists()
        assert run.record_file.exists()


def test_a_kill_while_the_first_file_was_written_does_not_block_the_run(run: Run) -> None:
    run.path.mkdir(parents=True)
    (run.path / ".run.json-0123456789abcdef-x_1.partial").touch()
    with run.locked():
        assert list(run.path.iterdir()) == []
        run.begin("data", INPUTS, CONFIG)
    assert run.record["id"] == "0123456789abcdef"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("", "", "yoda: is not a folder"),
        ("notes.txt", "mine", r"yoda: is not empty \(notes\.txt\) and is no run of promptbake"),
        (".x.partial", "mine", r"yoda: is not empty \(\.x\.partial\)"),
        ("run.json", '{"of": "another program"}', r"run\.json: has no 'schema'"),
        ("run.json", "[" * 9999, r"run\.json: is not JSON"),
    ],
)
def test_what_is_no_run_is_left_as_it_is(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    file = tmp_path / "yoda" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    with pytest.raises(BakeError, match=problem), Run(tmp_path / "yoda").locked():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["yoda"]  # not even a lock
    assert file.read_text() == content


def test_a_run_and_a_link_to_it_have_one_lock_and_its_own_files_are_no_links(run: Run) -> None:
    run.begin("data", INPUTS, CONFIG)
    link = run.path.with_name("link")
    link.symlink_to(run.path)
    with (
        run.locked(),
        pytest.raises(BakeError, match="another promptbake is running"),
        Run(link).locked(),
    ):
        pass
    run.adapter.symlink_to(run.path.parent)
    with pytest.raises(BakeError, match="adapter: is a symbolic link"), Run(link).locked():
        pass
    run.path.with_name("loop").symlink_to("loop")
    with pytest.raises(BakeError, match="loop: is a symbolic link that leads nowhere"):
        Run(run.path.with_name("loop"))


@pytest.mark.parametrize("path", [".", "..", "../yoda", "../yoda/."])
def test_a_run_may_be_named_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    folder = tmp_path / "yoda"
    Run(folder).begin("bake", INPUTS, CONFIG)
    (folder / "adapter").mkdir()
    monkeypatch.chdir(folder / "adapter" if path == ".." else folder)
    run = Run(Path(path))
    with run.locked():
        run.begin("data", INPUTS, CONFIG)
    assert (folder / "run.json").exists()
    assert run.archive().resolve() == tmp_path / "yoda~1"
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.suffix != ".lock") == [
        "yoda~1"
    ]


def test_what_is_fixed_when_a_stage_begins_stays_where_it_resumes(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for inputs, margin, expected in (("a", 0.8, 0.8), ("a", 0.5, 0.8), ("b", 0.5, 0.5)):
        run.begin("bake", {"x": inputs}, {}, fixed={"margins": {"gap_closed": margin}})
        assert run.stage("bake")["margins"] == {"gap_closed": expected}
    run.finish("bake", 1.0)
    assert run.stage("bake")["margins"] == {"gap_closed": 0.5}
