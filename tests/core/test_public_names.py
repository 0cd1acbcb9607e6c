"""The public names and their signatures are those on record."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import promptbake
import promptbake.testing

RECORD = Path(__file__).with_name("public_names.txt")
MODULES = (promptbake, promptbake.testing)


def lines(module: ModuleType) -> Iterator[str]:
    for name in module.__all__:
        yield from (f"{module.__name__}.{line}" for line in described(name, getattr(module, name)))


def described(name: str, thing: Any) -> Iterator[str]:
    """One line a name, and one for each thing that a caller may use of it."""
    if inspect.isclass(thing):
        yield f"{name}: {kind_of(thing)}"
        yield from (f"{name}.{line}" for line in members(thing))
    elif inspect.isfunction(thing):
        yield f"{name}{inspect.signature(thing)}"
    elif isinstance(thing, (int, tuple)) and name != "__version__":
        yield f"{name} = {thing!r}"
    else:
        yield f"{name}: {type(thing).__name__}"


def kind_of(thing: type) -> str:
    if getattr(thing, "_is_protocol", False):
        return "protocol"
    return "dataclass" if dataclasses.is_dataclass(thing) else "class"


def members(thing: type) -> Iterator[str]:
    """The fields, and what else is public and written in the class itself."""
    is_data = dataclasses.is_dataclass(thing)
    fields = {each.name: each.type for each in dataclasses.fields(thing)} if is_data else {}
    annotated = dict(fields)
    for base in own_bases(thing):
        annotated |= vars(base).get("__annotations__", {})
    for name, annotation in annotated.items():
        if not name.startswith("_"):
            yield f"{name}: {annotation}"
    called = {"__call__"} if is_data or kind_of(thing) == "protocol" else {"__call__", "__init__"}
    mine = {name: each for base in own_bases(thing) for name, each in vars(base).items()}
    for name, member in mine.items():
        if name.startswith("_") and name not in called:
            continue
        if isinstance(member, property):
            assert member.fget is not None
            yield f"{name}: {inspect.signature(member.fget).return_annotation}"
        elif name.startswith("test_"):
            yield name
        elif inspect.isfunction(member):
            yield f"{name}{inspect.signature(member)}"


def own_bases(thing: type) -> list[type]:
    """Itself, behind those of its bases that a suite is put together from."""
    suites = [base for base in thing.__mro__ if base.__module__.startswith("promptbake.testing.")]
    return suites[::-1] if issubclass(thing, promptbake.testing.Suite) else [thing]


def test_the_public_names_are_those_on_record() -> None:
    found = "".join(f"{line}\n" for module in MODULES for line in lines(module))
    found = re.sub(r"<function (\S+) at 0x\w+>", r"\1", found)
    if os.environ.get("PROMPTBAKE_RECORD"):
        RECORD.write_text(found)
    assert found == RECORD.read_text(), (
        "a public name or its signature has changed. If that is meant: would a plugin that was "
        "written before break? Then raise API_VERSION. Say it in CHANGELOG.md, and run this test "
        "once with PROMPTBAKE_RECORD=1"
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_names_are_sorted_and_there(module: ModuleType) -> None:
    names = module.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(module, name) is not None
    undocumented = [
        name
        for name in names
        if inspect.isroutine(thing := getattr(module, name)) or inspect.isclass(thing)
        if not thing.__doc__
    ]
    assert undocumented == []
