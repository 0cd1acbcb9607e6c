"""Each hook is documented and implemented, and the built-in plugins are light to load."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from promptbake import interfaces
from promptbake.plugins import hookspecs
from promptbake.plugins.hookspecs import HOOKS, WITHOUT_OPTIONS
from promptbake.plugins.registry import GROUP, load

HEAVY = {"torch", "transformers", "peft", "safetensors", "numpy", "matplotlib", "tokenizers"}


def test_the_hooks_are_those_that_are_listed_by_kind() -> None:
    declared = [name for name in vars(hookspecs) if name.startswith("promptbake_register_")]
    assert sorted(HOOKS.values()) == sorted(declared)
    assert {kind: f"promptbake_register_{kind}" for kind in HOOKS} == HOOKS


@pytest.mark.parametrize("hook", HOOKS.values())
def test_a_hook_is_documented(hook: str) -> None:
    function = getattr(hookspecs, hook)
    assert len(function.__doc__.split()) > 4
    assert hasattr(function, "promptbake_spec")
    assert not inspect.signature(function).parameters
    product = inspect.signature(function).return_annotation.removeprefix("Factories[")[:-1]
    assert product in (*vars(interfaces), "None", "str")


def test_every_built_in_loads_under_the_distributions_version() -> None:
    points = [p for p in entry_points(group=GROUP) if p.dist and p.dist.name == "promptbake"]
    registry = load(points)
    assert registry.load_failures == ()
    assert {factory.plugin for factory in registry.factories} == {point.name for point in points}
    assert {factory.version for factory in registry.factories} == {points[0].dist.version}
    names = {(factory.kind, factory.name) for factory in registry.factories}
    assert len(names) == len(registry.factories)


def test_importing_promptbake_loads_lazy_loader_alone() -> None:
    program = (
        "import sys; before = set(sys.modules); import promptbake;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names) - {'promptbake'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["lazy_loader"]


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "--json"]])
def test_listing_and_help_import_nothing_heavy(arguments: list[str]) -> None:
    program = """if True:
        import sys
        from promptbake.cli.main import main
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
    assert {"promptbake.cli.main", "pluggy"} <= loaded
    if "--json" in arguments:
        listing = json.loads(done.stdout)
        factories = {(each["kind"], each["name"]): each for each in listing["factories"]}
        assert {kind for kind, _ in factories} >= HOOKS.keys() - WITHOUT_OPTIONS
        assert listing["load_failures"] == []
        files = factories["data_providers", "files"]
        assert (files["plugin"], [each["name"] for each in files["options"]]) == ("files", ["path"])
        assert "promptbake_torch" in loaded
