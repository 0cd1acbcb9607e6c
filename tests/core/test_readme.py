"""The commands of the documentation are ones that there are; so are the Makefile's targets."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main

from promptbake.cli.main import app
from promptbake.runs.layers import resolve

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "core/README.md", "plugins/README.md")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE)
TEXT = "\n".join((ROOT / name).read_text("utf-8") for name in DOCUMENTS)


def commands(first: str) -> list[list[str]]:
    """The words of the indented command lines that begin so; comments and line ends joined."""
    joined = TEXT.replace("\\\n", " ")
    lines = re.findall(rf"^    {re.escape(first)} (.*)$", joined, flags=re.MULTILINE)
    assert lines
    return [line.split("#")[0].split() for line in lines]


def test_every_make_line_names_targets_and_variables_that_there_are() -> None:
    variables = set(re.findall(r"^([A-Z]+) *\?=", MAKEFILE, flags=re.MULTILINE))
    for words in commands("make"):
        names = [word.partition("=")[0] for word in words]
        shouted = {name for name in names if name.isupper()}
        assert shouted <= variables, words
        assert {name for name in names if name.isalpha() and name.islower()} <= set(TARGETS), words


def test_every_promptbake_line_is_one_that_parses() -> None:
    group = typer.main.get_command(app)
    for name, *words in commands(".venv/bin/promptbake"):
        command = group.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, re.sub(r'"[^"]*"', "x", " ".join(words)).split())


@pytest.mark.parametrize("setting", re.findall(r"\b[a-z]+(?:\.[a-z_]+)+=[^\s\"`]+", TEXT))
def test_every_setting_is_one_that_there_is(setting: str) -> None:
    if not setting.endswith("=...") and setting != "section.key=value":
        resolve("local", settings=[setting])


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree = (ROOT / "README.md").read_text("utf-8").partition("## The tree")[2]
    for name in re.findall(r"^    (\S+)", tree, flags=re.MULTILINE):
        assert (ROOT / name).exists() or name == "runs/", name


def test_every_plugin_is_in_the_plugins_table() -> None:
    table = (ROOT / "plugins" / "README.md").read_text("utf-8")
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(re.findall(r"^\| `(promptbake_\w+)`", table, flags=re.MULTILINE)) == set(
        points["promptbake"].values()
    )


def test_make_alone_prints_every_target_with_its_purpose() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in TARGETS:
        assert re.search(rf"^  {target} +\w.*$", done.stdout, flags=re.MULTILINE), target
    assert done.stderr == ""


def test_every_target_is_phony() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert phony.split() == TARGETS


def test_the_targets_are_those_that_were_promised() -> None:
    assert set(TARGETS) == {
        *("help", "setup", "plan", "data", "bake", "verify", "chat", "export", "report"),
        *("plugins", "doctor", "test", "check", "plugin-authors"),
        *("bench", "bench-data", "bench-tinker", "plugin-versions", "fuzz", "clean"),
    }
