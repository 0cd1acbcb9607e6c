"""verify.junit.xml: parsed as a CI server does."""

from __future__ import annotations

from xml.etree import ElementTree

from verify_example import RESULT

from promptbake.report import junit
from promptbake.report.verify_result import VerifyResult


def parse(result: VerifyResult) -> tuple[ElementTree.Element, dict[str, ElementTree.Element]]:
    """The suite, and its cases by name."""
    root = ElementTree.fromstring(junit.render(result).encode())
    assert root.tag == "testsuites"
    (suite,) = root
    return suite, {case.attrib["name"]: case for case in suite.iter("testcase")}


def failures(cases: dict[str, ElementTree.Element]) -> dict[str, str]:
    found = {name: case.find("failure") for name, case in cases.items()}
    return {name: each.attrib["message"] for name, each in found.items() if each is not None}


def test_each_claim_is_a_case_and_what_was_not_shown_is_a_failure() -> None:
    suite, cases = parse(RESULT)
    assert list(cases) == [
        "not failed",
        "kl.gap_closed",
        "gap_closed: kl.gap_closed",
        "wrong prompt is refused",
    ]
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("4", "1")
    properties = {each.attrib["name"]: each.attrib["value"] for each in suite.iter("property")}
    assert properties["verdict"] == "closer but not equivalent"
    assert properties["passed"] == "true"
    (line,) = failures(cases).values()
    assert line == (
        "not shown: kl.gap_closed 0.771 (90 % interval 0.730 to 0.805), margin gap_closed: at "
        "least 0.8: not shown"
    )


def test_a_failed_bake_fails_by_verdict_threshold_and_control() -> None:
    threshold = RESULT.thresholds["kl.gap_closed"].model_copy(update={"min": 0.9, "passed": False})
    control = RESULT.controls["wrong prompt"].model_copy(update={"refused": False})
    verdict = RESULT.verdict.model_copy(update={"outcome": "failed", "reasons": ["too far"]})
    result = RESULT.model_copy(
        update={
            "thresholds": {"kl.gap_closed": threshold},
            "controls": {"wrong prompt": control},
            "verdict": verdict,
            "passed": False,
        }
    )
    suite, cases = parse(result)
    found = failures(cases)
    assert suite.attrib["failures"] == str(len(found)) == "4"
    assert found["not failed"] == "failed"
    case = cases["not failed"].find("failure")
    assert case is not None
    assert case.text is not None
    assert case.text.splitlines()[0] == "too far"
    assert found["kl.gap_closed"] == "below: kl.gap_closed 0.771, threshold: at least 0.9"
    assert found["wrong prompt is refused"].startswith("judged equivalent, and must be refused")


def test_what_xml_cannot_hold_is_replaced_and_markup_is_text() -> None:
    controls = {'<a> & "b"\x00\x1b\ud800': RESULT.controls["wrong prompt"]}
    _, cases = parse(RESULT.model_copy(update={"controls": controls}))
    assert '<a> & "b"\ufffd\ufffd\ufffd is refused' in cases
