"""Runs the one test that each faulty plugin's suite names, and reports it passed where it fails."""

from __future__ import annotations

from collections.abc import Generator

import pytest

CAUGHT = pytest.StashKey[bool]()
LEFT_BEHIND = "the plugin changed "  # how the suites' own fixture says that it caught a mistake


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a faulty plugin's suite, leave the test that is to catch it."""
    kept, left_out = [], []
    for item in items:
        caught_by = _caught_by(item)
        wanted = caught_by is None or caught_by in (item.name, item.name.partition("[")[0])
        (kept if wanted else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the outcome of a faulty plugin's test round."""
    report = yield
    if _caught_by(item) is None or call.when == "setup":
        return report
    if call.excinfo is not None and call.excinfo.errisinstance((NameError, SyntaxError)):
        return report  # the mistake itself is misspelt
    failed = report.failed
    if call.when == "teardown" and failed and LEFT_BEHIND not in str(call.excinfo):
        return report  # a fixture that could not be torn down catches nothing
    item.stash[CAUGHT] = item.stash.get(CAUGHT, False) or failed
    if call.when == "call" or item.stash[CAUGHT]:
        report.outcome, report.longrepr = "passed", None
    else:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: the mistake was not caught"
    return report


def _caught_by(item: pytest.Item) -> str | None:
    return getattr(getattr(item, "cls", None), "caught_by", None)
