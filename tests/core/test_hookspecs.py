"""Each hook is documented and implemented, and the built-in plugins are light to load."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from promptbake import hookspecs, interfaces
from promptbake.hookspecs import ALL_HOOKS, HOOKS, PROFILES_HOOK
from promptbake.plugins import GROUP, load

HEAVY = {"torch", "transformers", "peft", "safetensors", "numpy", "matplotlib", "tokenizers"}


def test_the_hooks_are_those_that_are_listed_by_kind() -> None:
    written = [name for name in vars(hookspecs) if name.startswith("promptbake_register_")]
    assert sorted(ALL_HOOKS) == sorted(written)
    assert set(ALL_HOOKS) - set(HOOKS.values()) == {PROFILES_HOOK}
    assert {kind: f"promptbake_register_{kind}" for kind in HOOKS} == HOOKS


@pytest.mark.parametrize("hook", ALL_HOOKS)
def test_a_hook_speaks_to_the_plugins_author(hook: str) -> None:
    function = getattr(hookspecs, hook)
    assert len(function.__doc__.split()) > 4
    assert hasattr(function, "promptbake_spec")
    assert not inspect.signature(function).parameters
    offered = inspect.signature(function).return_annotation
    if hook == PROFILES_HOOK:
        assert offered == "Mapping[str, ProfileText]"
    else:
        assert offered.removeprefix("Factories[").removesuffix("]") in vars(interfaces)


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_is_implemented_by_a_built_in_plugin(kind: str) -> None:
    assert load().of(kind)


def test_the_profiles_hook_is_implemented_by_a_built_in_plugin() -> None:
    assert load().profiles


def test_every_built_in_loads_under_the_distributions_version() -> None:
    points = [p for p in entry_points(group=GROUP) if p.dist and p.dist.name == "promptbake"]
    registry = load(points)
    assert registry.set_aside == ()
    assert {offer.plugin for offer in registry.offers} == {point.name for point in points}
    assert {offer.version for offer in registry.offers} == {points[0].dist.version}
    names = {(offer.kind, offer.name) for offer in registry.offers}
    assert len(names) == len(registry.offers)


def test_importing_promptbake_loads_nothing_but_pluggy() -> None:
    program = (
        "import sys; before = set(sys.modules); import promptbake;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names) - {'promptbake'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["pluggy"]


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "--json"]])
def test_listing_and_help_import_nothing_heavy(arguments: list[str]) -> None:
    program = """if True:
        import sys
        from promptbake.cli import main
        try:
            main()
        finally:
            print("loaded:", *sys.modules, file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=True,
    )
    loaded = set(done.stderr.rpartition("loaded: ")[2].split())
    assert loaded & HEAVY == set()
    assert {"promptbake.cli", "pluggy"} <= loaded
    if "--json" in arguments:
        assert {offer["kind"] for offer in json.loads(done.stdout)["offers"]} == set(HOOKS)
        assert "promptbake_torch" in loaded
