"""The folders in plugins/, what the wheel packs and the entry points agree."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomli

import promptbake_tinker

ROOT = Path(__file__).parents[2]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = sorted(path.parent.name for path in ROOT.glob("plugins/*/__init__.py"))


def test_the_wheel_packs_the_core_and_every_plugin() -> None:
    packed = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packed == ["core/promptbake", *(f"plugins/{name}" for name in PACKAGES)]


def test_every_plugin_has_an_entry_point_of_its_name() -> None:
    points = PROJECT["project"]["entry-points"]["promptbake"]
    assert points == {name.removeprefix("promptbake_"): name for name in PACKAGES}
    assert list(points) == sorted(points)


def test_the_installed_entry_points_are_those_of_the_project() -> None:
    installed = {
        point.name: point.value
        for point in entry_points(group="promptbake")
        if point.dist and point.dist.name == "promptbake"
    }
    assert installed == PROJECT["project"]["entry-points"]["promptbake"]


@pytest.mark.parametrize("folder", ["core", "plugins"])
def test_a_source_root_holds_packages_only(folder: str) -> None:
    for path in ROOT.joinpath(folder).iterdir():
        assert path.name.startswith("promptbake") or path.suffix == ".md" or path.name[0] in "._"


def test_the_sdist_holds_what_the_project_has() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert {"core", "plugins", "tests", "prompts"} <= set(included)


def test_imports_go_down_and_never_round_in_a_circle() -> None:
    package = ROOT / "core" / "promptbake"
    names = {path: module_name(path) for path in package.rglob("*.py")}
    below = {names[path]: imported(path) & set(names.values()) for path in names}
    TopologicalSorter(below).prepare()  # raises CycleError


def test_the_core_imports_no_plugin() -> None:
    for path in (ROOT / "core").rglob("*.py"):
        assert not {name for name in imported(path) if name.startswith("promptbake_")}, path


def test_the_fake_services_are_no_part_of_the_plugins_that_talk_to_the_real_ones() -> None:
    public = {f"promptbake_tinker.{name}" for name in promptbake_tinker.__all__}
    for path in ROOT.joinpath("plugins", "promptbake_loopback").rglob("*.py"):
        theirs = {name for name in imported(path) if name.startswith("promptbake_")}
        theirs = {name for name in theirs if not name.startswith("promptbake_loopback")}
        assert theirs <= public | {"promptbake_tinker"}, path
    for path in ROOT.joinpath("plugins").glob("promptbake_*/**/*.py"):
        if "promptbake_loopback" not in path.parts:
            assert not {name for name in imported(path) if "loopback" in name}, path


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]  # behind core/ or plugins/
    return ".".join(parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """The modules that a file imports, at its top or within, for the type checker or for real."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found - {module_name(path), "promptbake"}
