"""The folders in plugins/, what the wheel packs and the entry points agree."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomli

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
