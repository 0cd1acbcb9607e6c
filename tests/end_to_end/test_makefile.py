"""`make` alone prints help, and no target is a file."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE)


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
        *("bench-data", "bench-tinker", "clean"),
    }
