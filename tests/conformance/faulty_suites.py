"""Faulty plugins: each is a good one with one mistake, and names the test that must fail.

A module of faulty plugins is a test module whose classes are suites. Those of good plugins run
whole; of a faulty one's suite, conftest.py runs the one test that it names, and expects it to fail.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from promptbake.testing.suite import NotCollected, Suite


class around:  # noqa: N801  # used as a function
    """A method that is given the good class's own, bound to its object, as the first argument.

    With `with_self`, the object comes before it.
    """

    def __init__(self, change: Callable[..., Any], with_self: bool = False) -> None:
        self._change, self._with_self = change, with_self

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner, name

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        good = getattr(super(self._owner, instance), self._name)
        return partial(self._change, *([instance] if self._with_self else []), good)


@dataclass(frozen=True)
class Fault:
    """One mistake: members that replace those of the good plugin's class, and who catches it.

    Attributes:
        name: What the mistake is, in snake case.
        caught_by: The test that must fail, with its parameter's id in brackets where it has one.
        members: What replaces the good class's members.
        flags: What replaces the suite's members: capability flags and fixtures.
        base: The good class, where it is another than the module's.
    """

    name: str
    caught_by: str
    members: Mapping[str, Any] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    base: type | None = None


def fault(
    name: str,
    caught_by: str,
    *,
    flags: Mapping[str, Any] | None = None,
    base: type | None = None,
    **members: Any,
) -> Fault:
    """A Fault with its members as keyword arguments."""
    return Fault(name, caught_by, members, flags or {}, base)


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


def suites_for(
    suite: type[Suite],
    fixture: str,
    good: type,
    faults: Iterable[Fault],
    make: Callable[[type], Any] = lambda plugin: plugin(),
    **members: Any,
) -> dict[str, type[Suite]]:
    """A module's tests: `TestGood`, and one class for each fault. For `globals().update(...)`.

    `make` makes the fixture's value of a plugin's class.
    """
    suites = {"TestGood": suite_for(suite, fixture, lambda: make(good), **members)}
    for each in faults:
        assert hasattr(suite, each.caught_by.partition("[")[0]), each
        plugin = type(each.name, (each.base or good,), dict(each.members))
        name = "Test" + "".join(map(str.capitalize, each.name.split("_")))
        assert name not in suites, each
        suites[name] = suite_for(
            suite, fixture, lambda plugin=plugin: make(plugin), each.caught_by,
            **{**members, **each.flags},
        )  # fmt: skip
    return suites
