"""Faulty plugins: each is a good one with one mistake, and names the test that must fail.

A module of faulty plugins is a test module whose classes are suites. Those of good plugins run
whole; of a faulty one's suite, conftest.py runs the one test that it names, and expects it to fail.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import pytest

from promptbake.testing.suite import NotCollected, Suite

# By the test that must fail, with its parameter's id in brackets where it has one, and by what the
# mistake is: texts of the good plugin's source, each followed by what replaces it, and then what
# replaces members of the suite, such as capability flags.
Faults = Mapping[str, Mapping[str, tuple[Any, ...]]]


def template(kind: str) -> str:
    """The source of a good plugin: the one that `promptbake new-plugin` writes."""
    file = files("promptbake") / "templates" / "plugin" / f"{kind}.py.j2"
    return file.read_text("utf-8").replace("{{ name }}", "toy").replace("{{ Name }}", "Toy")


def changed(source: str, edits: tuple[str, ...]) -> str:
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        assert source.count(old) == 1, f"{source.count(old)} times in the source: {old!r}"
        source = source.replace(old, new)
    return source


def edited(source: str, edits: tuple[str, ...], **known: Any) -> dict[str, Any]:
    """The names of a module whose source is changed; `known` are names that it may use, too."""
    names = {"__name__": __name__, **known}
    exec(changed(source, edits), names)
    return names


def suites_for(
    suite: type[Suite], fixture: str, make: Callable[..., Any], faults: Faults, **members: Any
) -> dict[str, type[Suite]]:
    """A module's tests: a class for each fault. For `globals().update(...)`.

    `make` makes the fixture's value, and is given the edits.
    """
    suites = dict[str, type[Suite]]()
    for caught_by, by_name in faults.items():
        for name, parts in by_name.items():
            edits = [part for part in parts if isinstance(part, str)]
            flags = [part for part in parts if isinstance(part, dict)]
            title = "Test" + "".join(map(str.capitalize, name.split("_")))
            assert title not in suites, name
            suites[title] = suite_for(
                suite, fixture, lambda edits=edits: make(*edits), caught_by,
                **members | (flags[0] if flags else {}),
            )  # fmt: skip
    return suites


def suite_for(
    suite: type[Suite],
    fixture: str,
    make: Callable[..., Any],
    caught_by: str | None = None,
    **members: Any,
) -> type[Suite]:
    """A suite whose fixture gives what `make` makes; `caught_by` is None for a good plugin."""

    @pytest.fixture(name=fixture)
    def product(self: Suite) -> Any:
        return make()

    members = {fixture: product, "caught_by": caught_by, **members}
    if caught_by is not None:  # the other tests are not collected, which takes its time
        wanted = caught_by.partition("[")[0]
        others = (name for name in dir(suite) if name.startswith("test_") and name != wanted)
        members = {name: _not_collected(suite, name) for name in others} | members
    test_class = type("Test", (suite,), members)
    assert caught_by is None or inspect.isfunction(inspect.getattr_static(test_class, wanted)), (
        f"{wanted} is not collected with these flags"
    )
    return test_class


def _not_collected(suite: type[Suite], name: str) -> NotCollected:
    return NotCollected(inspect.getattr_static(suite, name), {"caught_by": False})
