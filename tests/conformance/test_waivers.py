"""A suite's test is waived by xfail with a reason, and in no other way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import pytest
from promptbake.testing import EvaluatorSuite
from promptbake.types import ARMS, Measurement

class Constant:
    def evaluate(self, evidence):
        return [Measurement("one", "share", dict.fromkeys(ARMS, 1.0))]

class Base(EvaluatorSuite):
    telling = ("a", "b")

    @pytest.fixture
    def evaluator(self):
        return Constant()
"""
NAME = "test_it_tells_two_answers_apart"
REASON = '@pytest.mark.xfail(reason="it is a constant")'
WAIVED = {
    "Skipped": f"""
        @pytest.mark.skip(reason="later")
        def {NAME}(self): ...""",
    "SkippedSometimes": f"""
        @pytest.mark.skipif(True, reason="later")
        def {NAME}(self): ...""",
    "WithoutReason": f"""
        @pytest.mark.xfail
        def {NAME}(self): ...""",
    "WithABlankReason": f"""
        @pytest.mark.xfail(reason=" ")
        def {NAME}(self): ...""",
    "Replaced": f"""
        def {NAME}(self): ...""",
    "Removed": f"""
        {NAME} = None""",
}
WHY = {
    "Skipped": f"{NAME} is waived by skip;",
    "SkippedSometimes": f"{NAME} is waived by skipif;",
    "WithoutReason": f"{NAME} is waived without a reason;",
    "WithABlankReason": f"{NAME} is waived without a reason;",
    "Replaced": f"{NAME} replaces a test of the suite;",
    "Removed": f"{NAME} is no test any more;",
    "WholeClass": "is waived by skip;",
}


def run(folder: Path, source: str) -> str:
    file = folder / "test_constant.py"
    file.write_text(HEAD + source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-rA",
         "--continue-on-collection-errors", str(file)],
        capture_output=True,
        text=True,
        cwd=folder,
    )  # fmt: skip
    return done.stdout


def test_what_is_not_an_xfail_with_a_reason_is_refused(tmp_path: Path) -> None:
    classes = "".join(f"\nclass Test{name}(Base):{body}\n" for name, body in WAIVED.items())
    whole = "\n@pytest.mark.skip(reason='all')\nclass TestWholeClass(Base):\n    pass\n"
    said = run(tmp_path, classes.replace("\n        ", "\n    ") + whole)
    for name, why in WHY.items():
        lines = [line for line in said.splitlines() if f"Test{name}.test_" in line]
        assert any(why in line for line in lines)
        for line in lines:
            assert 'waive it by @pytest.mark.xfail(reason="...")' in line
    assert "passed" not in said.splitlines()[-1]


def test_an_xfail_with_a_reason_waives_one_test(tmp_path: Path) -> None:
    own = f"\nclass TestOurs(Base):\n    {REASON}\n    def {NAME}(self, evaluator):\n" + (
        "        super().test_it_tells_two_answers_apart(evaluator)\n"
        "    def test_of_our_own(self): ...\n"
    )
    said = run(tmp_path, own)
    assert f"XFAIL test_constant.py::TestOurs::{NAME} - it is a constant" in said
    assert "PASSED test_constant.py::TestOurs::test_of_our_own" in said
    assert "ERROR" not in said


@pytest.mark.parametrize("flag", ["compared_with"])
def test_what_a_plugin_does_not_claim_is_left_out_by_its_flag(tmp_path: Path, flag: str) -> None:
    said = run(tmp_path, "\nclass TestOurs(Base):\n    pass\n")
    assert f"TestOurs.{flag} is ()" in said
