"""What `make` is given reaches the command as it is."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from command import promptbake

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("where", ["command line", "environment"])
@pytest.mark.parametrize(
    "value",
    [
        "`touch pwned`",
        "$(touch pwned)",
        "$$(touch pwned)",
        "$(shell touch pwned)",
        "$(HOME) $HOME ${HOME} #x \\",
        """it's "quoted"; touch pwned""",
        "--help my file",
        "two\nlines",
    ],
)
def test_values_reach_the_command_as_they_are(tmp_path: Path, value: str, where: str) -> None:
    fake = tmp_path / "fake"
    fake.write_text('#!/bin/sh\nprintf "%s\\0" "$@" "$PROMPTBAKE_SET"\n')
    fake.chmod(0o755)
    (tmp_path / "ci").mkdir()
    for name in ("pyproject.toml", "ci/constraints.txt", "ready"):
        (tmp_path / name).touch()
    before = set(tmp_path.rglob("*"))
    given = dict.fromkeys(("PROMPT", "PROFILE", "CONFIG", "RUN", "TO", "SET"), value)
    on_line = [f"{name}={text}" for name, text in given.items()]
    more = on_line if where == "command line" else []
    command = ["make", "-s", f"--file={ROOT / 'Makefile'}", f"BAKE={fake}", "READY=ready", *more]
    environment = os.environ | (given if where == "environment" else {})
    for target in ("export", "help"):
        done = subprocess.run(
            [*command, target],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        if target == "export":
            options = [f"--{name}={value}" for name in ("to", "profile", "config", "run")]
            assert done.stdout.split("\0")[:-1] == ["export", *options, "--", value, value]
    assert set(tmp_path.rglob("*")) == before


def test_set_takes_several_settings_and_values_with_blanks(
    prompt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = """train.lr=0.5  data.queries='my file.txt' train.trackers=["jsonl", "x y"]
        model.name=it's verify.evaluators=[]"""
    monkeypatch.setenv("PROMPTBAKE_SET", settings)
    printed = promptbake("config", prompt, "--profile", "mock", "--set", "train.lr=2", "--json")
    values = json.loads(printed.out)
    expected = {
        "train.lr": (2.0, "--set train.lr=2"),  # the command line's is the later one
        "data.queries": ("my file.txt", "--set data.queries='my file.txt'"),
        "train.trackers": (["jsonl", "x y"], """--set train.trackers=["jsonl", "x y"]"""),
        "model.name": ("it's", "--set model.name=it's"),
    }
    for key, (value, source) in expected.items():
        assert values[key] == {"value": value, "source": source}
