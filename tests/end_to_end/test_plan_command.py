"""`promptbake plan`: what a job will take, before anything is done."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command import promptbake
from run_folder import MOCK, Finished, refused, settings, tree

from promptbake.costs import Usage

ROWS = [
    *("data: sample", "bake: top_k", "bake: train", "bake: logprobs"),
    *("verify: logprobs", "verify: sample"),
]


def test_it_works_before_any_stage_and_writes_nothing(prompt: Path) -> None:
    before = tree(prompt.parent)
    result = promptbake("plan", prompt, *MOCK)
    assert (result.code, result.err) == (0, "")
    heads, *rows, totals, memory = result.out.splitlines()
    assert heads.split()[-2:] == ["dollars", "minutes"]
    assert [" ".join(row.split()[:2]) for row in rows] == ROWS
    assert {row.split()[-2] for row in rows} == {"0.0000"}
    assert totals.startswith("in all: $0.0000, 0.")
    assert totals.endswith(" minutes; worst case (max_tokens)")
    assert re.fullmatch(r"memory: about 0\.\d GB on this machine", memory)
    assert tree(prompt.parent) == before
    assert not (prompt.parent / "runs").exists()


def test_the_table_has_the_numbers_of_the_json(prompt: Path) -> None:
    table, printed = (promptbake("plan", prompt, *MOCK, *how) for how in ((), ("--json",)))
    assert (printed.code, printed.err) == (0, "")
    value = json.loads(printed.out)
    keys = "basis rows dollars seconds spent_dollars unpriced_calls max_dollars prices memory_bytes"
    assert set(value) == set(keys.split())
    amounts = [name for name in vars(Usage()) if name != "unpriced_calls"]
    assert [f"{row['stage']}: {row['work']}" for row in value["rows"]] == ROWS
    for row, line in zip(value["rows"], table.out.splitlines()[1:], strict=False):
        predicted = [float(row["predicted"][name]) for name in amounts]
        assert [float(cell.replace(",", "")) for cell in line.split()[2:-1]] == predicted
    by_key = {(row["stage"], row["work"]): row["predicted"] for row in value["rows"]}
    assert by_key["data", "sample"]["calls"] == 50
    assert by_key["data", "sample"]["output_tokens"] == 50 * 24
    assert by_key["bake", "train"]["calls"] == 40
    assert by_key["bake", "logprobs"]["calls"] == 6 * 10  # a reference, and steps 0, 10, ... 40
    assert (value["dollars"], value["spent_dollars"], value["max_dollars"]) == (0, 0, None)
    assert 0 < value["seconds"] == sum(row["seconds"] for row in value["rows"])
    assert (value["prices"], {row["spent"] for row in value["rows"]}) == ([], {None})
    assert value["basis"] == "worst case (max_tokens)"


def test_a_run_that_has_its_data_is_planned_with_its_own_responses_and_left_as_it_is(
    finished: Finished, prompt: Path
) -> None:
    before = promptbake("plan", prompt, *MOCK)
    shutil.copytree(finished.data, "runs/pirate")
    files = tree(prompt.parent)
    after, again = (promptbake("plan", prompt, *MOCK) for _ in range(2))
    assert tree(prompt.parent) == files
    assert (after.code, after.err) == (0, "")
    assert after.out.splitlines()[-2].endswith("; responses as they are in the run folder")
    assert "spent" not in after.out
    tokens = [
        [line.split()[2:8] for line in result.out.splitlines()[1:-2]]
        for result in (before, after, again)
    ]
    assert tokens[0] != tokens[1] == tokens[2]


def test_what_was_spent_and_the_cap_are_shown(prompt: Path) -> None:
    run = prompt.parent / "runs" / "pirate"
    run.mkdir(parents=True)
    lines = (
        {"id": 0, "what": "data: sample", "committed": False, "calls": 3, "dollars": 9.0},
        {"id": 0, "what": "data: sample", "committed": True, "calls": 2, "dollars": 0.25},
        {"id": 1, "what": "bake: train", "committed": False, "train_tokens": 7, "dollars": 1.5},
        {"id": 2, "what": "data: filter", "committed": True, "dollars": 0.5},  # of no row
    )
    (run / "costs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = tree(prompt.parent)
    arguments = ["plan", prompt, *MOCK, *settings("budget.max_dollars=2.5")]
    result, printed = promptbake(*arguments), promptbake(*arguments, "--json")
    assert (result.code, printed.code) == (0, 0)
    lines_out = result.out.splitlines()
    assert lines_out[-2:] == ["spent so far: $2.2500", "budget.max_dollars: $2.5000"]
    so_far = {
        lines_out[n - 1].split()[1]: line.split()[2:]
        for n, line in enumerate(lines_out)
        if "so far" in line
    }
    assert so_far["sample"] == ["2", "0", "0", "0", "0", "0.2500"]
    assert so_far["train"] == ["0", "0", "0", "0", "7", "1.5000"]
    value = json.loads(printed.out)
    assert (value["spent_dollars"], value["max_dollars"]) == (2.25, 2.5)
    spent = {f"{row['stage']}: {row['work']}": row["spent"] for row in value["rows"]}
    assert spent["data: sample"]["dollars"] == 0.25
    assert spent["bake: train"]["train_tokens"] == 7
    assert spent["verify: sample"] is None
    assert tree(prompt.parent) == before


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("data.held_out=99", "data.held_out = 99: there are 50 different queries"),
        ("budget.max_dollars=0", "budget.max_dollars"),
        ("budget.max_dollar=1", "budget.max_dollars"),
        ("data.queries=nowhere.txt", "nowhere.txt"),
    ],
)
def test_what_could_not_be_done_is_refused_by_the_plan_already(
    prompt: Path, setting: str, complaint: str
) -> None:
    assert complaint in refused("plan", prompt, *settings(setting))
