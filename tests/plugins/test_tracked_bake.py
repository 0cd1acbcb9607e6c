"""A bake by the command, with several trackers at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_trackio
import test_wandb

from promptbake.cli.main import main

SETTINGS = (
    "data.n_queries=8",
    "data.held_out=2",
    "data.max_tokens=8",
    "train.epochs=2",
    'train.trackers=["jsonl", "trackio", "wandb"]',
    "options.trackers.wandb.mode=offline",
)


def test_every_tracker_records_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt, folder = tmp_path / "pirate.md", tmp_path / "pirate"
    prompt.write_text("Speak as a pirate, always.")
    options = ["--profile", "mock", "--run", str(folder)]
    options += [argument for setting in SETTINGS for argument in ("--set", setting)]
    for stage in ("data", "bake"):
        with pytest.raises(SystemExit) as end:
            main([stage, str(prompt), *options])
        assert not end.value.code
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == lines[-1]["steps"]
    assert test_trackio.recorded(folder) == lines
    assert test_wandb.recorded(folder) == lines
