"""What `make` is given reaches the command as it is."""

from __future__ import annotations

import json
import os
import re
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
    given = dict.fromkeys(("PROMPT", "PROFILE", "CONFIG", "RUN", "TO", "SET", "TORCH"), value)
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


@pytest.mark.parametrize(
    ("words", "extras"),
    [
        ("setup", []),
        ("data bake verify chat", []),
        ("plan PROFILE=mock", []),
        ("data PROFILE=tinker", ["loopback,tinker,wandb"]),
        ("setup PROFILE=tinker-local", ["loopback,tinker,wandb"]),
        ("test", ["dev,openai,tinker,trackio,wandb"]),
        ("bench-tinker", ["dev,openai,tinker,trackio,wandb"]),
        ("data TORCH=cpu", []),
        ("setup TORCH=cpu", ["openai"]),
    ],
)
def test_a_target_installs_what_it_needs_over_the_set_up(
    tmp_path: Path, words: str, extras: list[str]
) -> None:
    (tmp_path / "ci").mkdir()
    for name in ("pyproject.toml", "ci/constraints.txt", "ready"):
        (tmp_path / name).touch()
    command = ["make", "--dry-run", f"--file={ROOT / 'Makefile'}", "READY=ready", *words.split()]
    outer = {"MAKEFLAGS", "MAKEOVERRIDES", "PROFILE", "TORCH"}  # where make runs these tests
    own = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(
        command, cwd=tmp_path, env=own, capture_output=True, text=True, check=True
    )
    assert re.findall(r"--editable '\.\[(.*)\]'", done.stdout) == extras


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
