"""verify.junit.xml: what a CI server shows of verify.json, a test case a claim."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from promptbake.report.verdict import Criterion
from promptbake.report.verify_result import VerifyResult

SUITE = "promptbake.verify"
# What an XML 1.0 document cannot hold, not even as an escape.
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One claim about the bake: where it does not hold, `failure` says what decided it."""

    kind: str
    name: str
    decided_by: str
    failure: str | None = None


def render(result: VerifyResult) -> str:
    """The XML text: one test case for the verdict, each threshold, each margin and each control.

    A margin that is not shown is a failure here, also where the bake is good enough for `verify` to
    exit 0 (`closer but not equivalent`): the claim that it makes was not shown.
    """
    cases = list(_cases(result))
    failures = sum(case.failure is not None for case in cases)
    suite = ElementTree.Element(
        "testsuite",
        name=SUITE,
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped="0",
        time=f"{result.seconds.verify:.1f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    values = {"prompt": result.prompt, "model": result.model, "verdict": result.verdict.outcome}
    for name, value in (values | {"passed": str(result.passed).lower()}).items():
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    for case in cases:
        classname = f"{SUITE}.{case.kind}"
        element = ElementTree.SubElement(
            suite, "testcase", classname=classname, name=_clean(case.name), time="0"
        )
        if case.failure is not None:
            failure = ElementTree.SubElement(
                element, "failure", type=case.kind, message=_clean(case.failure)
            )
            failure.text = _clean(case.decided_by)
        else:
            ElementTree.SubElement(element, "system-out").text = _clean(case.decided_by)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _cases(result: VerifyResult) -> Iterator[Case]:
    verdict = result.verdict
    reasons = "\n".join((*verdict.reasons, *verdict.margins_changed))
    failed = verdict.outcome if verdict.outcome == "failed" else None
    yield Case("verdict", "not failed", reasons or verdict.outcome, failed)
    for name, threshold in result.thresholds.items():
        line = f"{name} {threshold.value:.3f}, threshold: at least {threshold.min:g}"
        yield Case("threshold", name, line, None if threshold.passed else f"below: {line}")
    for each in verdict.decided_by:
        yield Case("margin", f"{each.margin}: {each.measurement}", each.line, _shortfall(each))
    for name, control in result.controls.items():
        line = f"{control.what}: gap closed {control.gap_closed:.3f}"
        failure = None if control.refused else f"judged equivalent, and must be refused: {line}"
        yield Case("control", f"{name} is refused", line, failure)


def _shortfall(criterion: Criterion) -> str | None:
    if criterion.passed:
        return None
    return f"{'exceeded' if criterion.refuted else 'not shown'}: {criterion.line}"


def _clean(text: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
