"""Faulty distributions, and the test of PluginSuite that catches each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faulty_suites import changed, suite_for

from promptbake.testing import PluginSuite

SOURCE = '''
"""A loss."""

from __future__ import annotations

from promptbake import Factories, Loss, hookimpl

PROMPTBAKE_API = 2


def NAME(*, weight: float = 1.0) -> Loss:
    """Nothing at all."""


@hookimpl
def promptbake_register_losses() -> Factories[Loss]:
    return {"NAME": NAME}
'''
IMPORTS = "from promptbake import Factories, Loss, hookimpl\n"
POINTS: dict[str, tuple[str, ...]] = {  # a distribution for each, with this after its name
    "not_installed": (), "installed_twice": ("", "_again"),
}  # fmt: skip
WEIGHT = "weight: float = 1.0"
FAULTS = {
    "test_it_is_installed": {"not_installed": (), "installed_twice": ()},
    "test_it_loads": {
        "broken": (IMPORTS, "import no_such_module\n"),
        "of_api_1": ("PROMPTBAKE_API = 2", "PROMPTBAKE_API = 1"),
        "newer": ("PROMPTBAKE_API = 2", "PROMPTBAKE_API = 3"),
        "without_an_api": ("PROMPTBAKE_API = 2\n", ""),
        "unmarked": ("@hookimpl\n", ""),
        "misspelt": ("register_losses", "register_loses"),
        "listing": ('{"NAME": NAME}', "[NAME]"),
    },
    "test_its_module_is_light": {"heavy": (IMPORTS, IMPORTS + "import jax\n")},
    "test_importing_it_prints_nothing": {"loud": (IMPORTS, IMPORTS + "print('Hello!')\n")},
    "test_no_other_plugin_offers_its_names": {"conflict": ('"NAME":', '"needy":')},
    "test_its_factories_are_documented": {"undocumented": ('"""Nothing at all."""', "...")},
    "test_its_options_are_annotated": {"untyped": (WEIGHT, "weight=1.0")},
    "test_the_defaults_of_its_options_are_of_their_types": {
        "mistyped": (WEIGHT, "weight: float = 'heavy'"),
    },
    "test_its_profiles_are_settings": {
        "unknown_setting": (
            "losses() -> Factories[Loss]", "profiles() -> Factories[str]",
            '{"NAME": NAME}', '{"NAME": lambda: "no_such.setting = 1"}'),
    },
    "test_what_it_requires_is_installed": {
        "needy": (
            IMPORTS, IMPORTS.replace("hookimpl", "hookimpl, requires"),
            "def NAME", '@requires(modules=("no_such_sdk",))\ndef NAME'),
    },
}  # fmt: skip
SOURCES = {"good": SOURCE} | {
    name: changed(SOURCE, edits) for faults in FAULTS.values() for name, edits in faults.items()
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed distributions: the good one, all faulty ones, and one named jax."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "jax.py").touch()
    for name, source in SOURCES.items():
        for suffix in POINTS.get(name, ("",)):
            install(folder, name, suffix, source)
    return folder


def install(folder: Path, name: str, suffix: str, source: str) -> None:
    module = f"faulty_{name}{suffix}"
    (folder / f"{module}.py").write_text(source.replace("NAME", name))
    record = folder / f"{module}-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[promptbake]\n{name} = {module}\n")


@pytest.fixture(autouse=True)
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


TestGood = suite_for(PluginSuite, "plugin", lambda: "good")
for caught_by, faults in FAULTS.items():
    for name in faults:
        suite = suite_for(PluginSuite, "plugin", lambda name=name: name, caught_by)
        globals()[f"Test_{name}"] = suite


def test_there_are_faulty_plugins_of_each_kind() -> None:
    names = "".join(path.name for path in Path(__file__).parent.glob("*faulty_*.py"))
    for kind in ("backend", "evaluator", "loss", "provider", "teacher", "tracker"):
        assert f"faulty_{kind}" in names
