"""What is learned: the prompt alone, or the targets of the settings, from files beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptbake.errors import BakeError
from promptbake.progress import SilentReporter
from promptbake.runs.session import Session, open_session
from promptbake.types import BakeTarget, Prompt

LONG, SHORT = Prompt("long", "Answer as a pirate, always."), Prompt("short", "Pirate!")
LISTED = """
[[targets]]
name = "shorter"
teacher = "long.md"
student = "short.md"
weight = 0.5
queries = "mine.txt"

[[targets]]
name = "keep"
teacher = ""
"""


def opened(folder: Path, sidecar: str) -> Session:
    for prompt in (LONG, SHORT):
        (folder / f"{prompt.name}.md").write_text(prompt.text + "\n")
    (folder / "long.toml").write_text(sidecar)
    return open_session(
        folder / "long.md",
        profile="mock",
        config_file=None,
        settings=(),
        run=folder / "run",
        reporter=SilentReporter(),
    )


def test_without_targets_the_prompt_is_learned(tmp_path: Path) -> None:
    assert opened(tmp_path, "").targets == (BakeTarget("", LONG),)


def test_targets_are_read_from_files_beside_the_prompt(tmp_path: Path) -> None:
    nothing = Prompt("", "")
    assert opened(tmp_path, LISTED).targets == (
        BakeTarget("shorter", LONG, SHORT, 0.5, "mine.txt"),
        BakeTarget("keep", nothing, nothing, 1.0, ""),
    )


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("name = 'keep'\nteacher = ''", "targets: two of them have one name"),
        ("name = 'a'", r"long\.toml: targets\.2\.teacher: is missing"),
        ("name = 'a b'\nteacher = ''", r"long\.toml: targets\.2\.name: .* found 'a b'"),
        ("name = 'a'\nteacher = ''\nweight = 0", r"targets\.2\.weight: .* greater than 0; found 0"),
        ("name = 'a'\nteacher = 'none.md'", r"none\.md: cannot be read: No such file"),
        ("name = 'a'\nteacher = ''\nstudnt = ''", r"targets\.2\.studnt: unknown setting"),
    ],
)
def test_a_wrong_target_is_refused(tmp_path: Path, target: str, problem: str) -> None:
    with pytest.raises(BakeError, match=problem):
        opened(tmp_path, f"{LISTED}\n[[targets]]\n{target}\n")
