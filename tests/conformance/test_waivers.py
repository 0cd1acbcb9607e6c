"""A suite's test is waived by xfail with a reason, and in no other way."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

HEAD = """
import pytest
from promptbake import NO_COST
from promptbake.testing import EvaluatorSuite
from promptbake.types import ARMS, Measurement

class Constant:
    def estimate_cost(self, context):
        return NO_COST
    def evaluate(self, context):
        return [Measurement("one", "share", {arm: {"all": 1.0} for arm in ARMS})]

class Base(EvaluatorSuite):
    contrasting_answers = ("a", "b")
    @pytest.fixture
    def evaluator(self):
        return Constant()
"""
NAME = "test_an_arm_that_differs_has_other_scores"
REASON = '@pytest.mark.xfail(reason="it is a constant")'
DEFINED = f"def {NAME}(self): ..."
REFUSED = {  # a class's body, and what is said of it
    "Skipped": (f"@pytest.mark.skip(reason='later')\n    {DEFINED}", "is waived by skip;"),
    "SkippedSometimes": (
        f"@pytest.mark.skipif(True, reason='later')\n    {DEFINED}", "is waived by skipif;"),
    "WithoutReason": (f"@pytest.mark.xfail\n    {DEFINED}", "is waived without a reason;"),
    "WithABlankReason": (
        f"@pytest.mark.xfail(reason=' ')\n    {DEFINED}", "is waived without a reason;"),
    "Replaced": (DEFINED, "replaces a test of the suite;"),
    "Removed": (f"{NAME} = None", "is no test any more;"),
}  # fmt: skip
ACCEPTED = f"""
class TestWaived(Base):
    {REASON}
    def {NAME}(self, evaluator):
        super().{NAME}(evaluator)
    def test_of_our_own(self): ...
"""


def run(pytester: pytest.Pytester, source: str) -> list[str]:
    pytester.makepyfile(HEAD + source)
    result = pytester.runpytest_inprocess(
        "-rA", "-pno:xdist", "-pno:cacheprovider",
        "--continue-on-collection-errors",
    )  # fmt: skip
    return result.outlines


def test_anything_but_an_xfail_with_a_reason_is_refused(pytester: pytest.Pytester) -> None:
    classes = [f"class Test{name}(Base):\n    {body}\n" for name, (body, _) in REFUSED.items()]
    whole = "@pytest.mark.skip(reason='all')\nclass TestWholeClass(Base):\n    pass\n"
    output = run(pytester, "\n".join([*classes, whole]))
    for name, reason in {
        **{n: r for n, (_, r) in REFUSED.items()},
        "WholeClass": "by skip;",
    }.items():
        lines = [line for line in output if f"Test{name}.test_" in line]
        assert any(reason in line for line in lines), name
        for line in lines:
            assert 'waive it by @pytest.mark.xfail(reason="...")' in line
    assert "passed" not in output[-1]


def test_an_xfail_with_a_reason_waives_one_test(pytester: pytest.Pytester) -> None:
    output = "\n".join(run(pytester, ACCEPTED))
    assert f"::TestWaived::{NAME} - it is a constant" in output
    assert "::TestWaived::test_of_our_own" in output
    assert "ERROR" not in output


@pytest.mark.parametrize(("flag", "collected"), [("()", False), ('("prompted",)', True)])
def test_a_test_is_collected_where_its_flag_calls_for_it(
    pytester: pytest.Pytester, flag: str, collected: bool
) -> None:
    output = run(pytester, f"class TestFlag(Base):\n    compared_with = {flag}\n")
    test = "TestFlag::test_compared_with_is_what_it_says"
    assert any(test in line for line in output) is collected
