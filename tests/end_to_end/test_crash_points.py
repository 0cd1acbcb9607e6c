"""`kill -9` before each change of a run's files, then the same, other and the earlier settings."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path

import pytest
from command import CrashPoint, Process, promptbake
from run_folder import MOCK, settings

from promptbake.distill.checkpoints import digests

SMALL = settings(
    "data.queries=queries.txt",
    "data.held_out=1",
    "data.max_tokens=6",
    "train.batch_size=1",
    "train.epochs=1",
    "train.save_every=1",
    "train.eval_every=9",
)
CHANGED = {"data": "data.max_tokens={}", "bake": "train.lr={}"}
VALUES = {"earlier": 5, "same": 6, "other": 7}  # the command that is killed is the same one
CLEARED = 16  # changes, after which nothing of the earlier bake is left
LATER_POINTS = 9  # of those one in so many is a crash point, with one of the settings each


def run_to_the_end(
    run: Path, prompt: Path, setting: str, *stages: str
) -> tuple[dict[str, str], str]:
    """The adapter's files after the stages, and what was printed."""
    printed = ""
    for stage in stages:
        done = promptbake(stage, prompt, *MOCK, *SMALL, "--set", setting, "--run", run)
        assert done.code == 0, done.err
        printed += done.err
    return digests(run / "adapter"), printed


@pytest.mark.parametrize("stage", CHANGED)
def test_a_kill_at_any_point_leaves_a_run_that_ends_as_if_there_had_been_none(
    prompt: Path, stage: str
) -> None:
    Path("queries.txt").write_text("".join(f"What is the number {i}?\n" for i in range(3)))
    chosen = {name: CHANGED[stage].format(value) for name, value in VALUES.items()}
    references = {
        name: run_to_the_end(Path("references", name), prompt, setting, "data", "bake")[0]
        for name, setting in chosen.items()
    }
    assert len({tuple(each.values()) for each in references.values()}) == len(VALUES)
    points = 0
    for number in count(1):
        if number > CLEARED and number % LATER_POINTS:
            continue
        killed = Path(f"killed-{number}", "run")
        shutil.copytree(Path("references", "earlier"), killed)
        arguments = [*MOCK, *SMALL, "--set", chosen["same"], "--run", killed]
        process = Process(Path("log"), stage, prompt, *arguments, crash=CrashPoint(killed, number))
        if process.result().code == 0:
            break
        points += 1
        others = ("same", "other")
        names = ["earlier", others[number % 2]] if number <= CLEARED else [list(VALUES)[points % 3]]
        for name in names:
            after = Path(f"killed-{number}-{name}")
            shutil.copytree(killed.parent, after)
            stages = list(CHANGED)[list(CHANGED).index(stage) :]
            adapter, printed = run_to_the_end(after / "run", prompt, chosen[name], *stages)
            assert adapter == references[name], (number, name, printed)
            assert not list(after.rglob("*.partial")), (number, name)
        shutil.rmtree(killed.parent)
    assert points >= {"data": 7, "bake": CLEARED + 2}[stage]
