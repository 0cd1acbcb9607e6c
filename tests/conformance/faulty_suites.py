"""Suites for faulty plugins: each names the test that is to catch it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from promptbake.testing.suite import Suite


def suite_for(
    suite: type[Suite],
    fixture: str,
    make: Callable[..., Any],
    caught_by: str | None = None,
    **members: Any,
) -> type[Suite]:
    """A suite whose fixture gives what `make` makes; None where nothing is to be caught."""

    @pytest.fixture(name=fixture)
    def made(self: Suite) -> Any:
        return make()

    return type("Test", (suite,), {fixture: made, "caught_by": caught_by, **members})


def suites_for(
    suite: type[Suite],
    fixture: str,
    good: Callable[[], Any],
    faulty: Mapping[Callable[[], Any], str],
    **members: Any,
) -> dict[str, type[Suite]]:
    """A module's tests: `TestGood`, and one for each faulty plugin with what is to catch it."""
    found = {"TestGood": suite_for(suite, fixture, good, **members)}
    for make, caught_by in faulty.items():
        assert hasattr(suite, caught_by), caught_by
        found[f"Test{make.__name__}"] = suite_for(suite, fixture, make, caught_by, **members)
    return found
