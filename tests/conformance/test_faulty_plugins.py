"""Every faulty plugin is caught by the test that is meant for it, and the good one is not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

CHANGED = "the plugin changed "
HERE = Path(__file__).parent
MODULES = sorted(path.stem for path in HERE.glob("faulty_*.py"))


def failures(tests: list[str], report: Path) -> dict[str, set[str]]:
    """The tests that failed, by class; a class of which all passed has none."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider",
         f"--junitxml={report}", "--tb=no", *tests],
        capture_output=True,
        text=True,
        cwd=HERE,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr  # tests ran, and some failed
    found: dict[str, set[str]] = defaultdict(set)
    for case in ElementTree.parse(report).iter("testcase"):
        suite, name = case.attrib["classname"].rpartition(".")[2], case.attrib["name"]
        error = case.find("error")  # of a fixture, which looks at what is left behind
        assert error is None or CHANGED in str(error.attrib), f"{suite}.{name} could not run"
        failed = found[suite]
        if error is not None or case.find("failure") is not None:
            failed.add(name.partition("[")[0])
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_faulty_plugin_is_caught_by_its_test(module: str, tmp_path: Path) -> None:
    suites = {name: each for name, each in vars(importlib.import_module(module)).items()
              if name.startswith("Test")}  # fmt: skip
    caught_by = {name: suite.caught_by for name, suite in suites.items() if suite.caught_by}
    assert len(caught_by) >= 10
    # The good ones pass the whole suite; of a faulty one its own test is enough.
    wanted = [f"{module}.py::{name}" + (f"::{caught_by[name]}" if name in caught_by else "")
              for name in suites]  # fmt: skip
    failed = failures(wanted, tmp_path / "report.xml")
    assert set(failed) == set(suites)
    missed = {name: test for name, test in caught_by.items() if test not in failed[name]}
    assert missed == {}
    for good in suites.keys() - caught_by.keys():
        assert failed[good] == set(), good


def test_there_are_faulty_plugins_of_each_kind() -> None:
    kinds = {"backends", "evaluators", "losses", "plugins", "providers", "teachers", "trackers"}
    assert kinds <= {name.removeprefix("faulty_") for name in MODULES}
