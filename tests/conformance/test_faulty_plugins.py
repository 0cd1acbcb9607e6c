"""Faulty distributions, and the test of PluginSuite that catches each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faulty_suites import Fault, fault, suites_for

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
LOADS = "test_it_loads"


class Good:
    """A distribution: what is replaced in SOURCE, and its entry points; none is not installed."""

    changes: tuple[tuple[str, str], ...] = ()
    points: tuple[str, ...] = ("",)  # a distribution for each, with this after the module's name


def changed(name: str, caught_by: str, *changes: tuple[str, str]) -> Fault:
    return fault(name, caught_by, changes=changes)


FAULTS = [
    fault("not_installed", "test_it_is_installed", points=()),
    fault("installed_twice", "test_it_is_installed", points=("", "_again")),
    changed("broken", LOADS, (IMPORTS, "import no_such_module\n")),
    changed("of_api_1", LOADS, ("PROMPTBAKE_API = 2", "PROMPTBAKE_API = 1")),
    changed("newer", LOADS, ("PROMPTBAKE_API = 2", "PROMPTBAKE_API = 3")),
    changed("without_an_api", LOADS, ("PROMPTBAKE_API = 2\n", "")),
    changed("unmarked", LOADS, ("@hookimpl\n", "")),
    changed("misspelt", LOADS, ("register_losses", "register_loses")),
    changed("listing", LOADS, ('{"NAME": NAME}', "[NAME]")),
    changed("heavy", "test_its_module_is_light", (IMPORTS, IMPORTS + "import jax\n")),
    changed("loud", "test_importing_it_prints_nothing", (IMPORTS, IMPORTS + "print('Hello!')\n")),
    changed("conflict", "test_no_other_plugin_offers_its_names", ('"NAME":', '"needy":')),
    changed("undocumented", "test_its_factories_are_documented", ('"""Nothing at all."""', "...")),
    changed("untyped", "test_its_options_are_annotated", ("weight: float = 1.0", "weight=1.0")),
    changed("mistyped", "test_the_defaults_of_its_options_are_of_their_types",
            ("weight: float = 1.0", "weight: float = 'heavy'")),
    changed("unknown_setting", "test_its_profiles_are_settings",
            ("promptbake_register_losses() -> Factories[Loss]",
             "promptbake_register_profiles() -> Factories[str]"),
            ('{"NAME": NAME}', '{"NAME": lambda: "no_such.setting = 1"}')),
    changed("needy", "test_what_it_requires_is_installed",
            (IMPORTS, IMPORTS.replace("hookimpl", "hookimpl, requires")),
            ("def NAME", '@requires(modules=("no_such_sdk",))\ndef NAME')),
]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed distributions: the good one, all faulty ones, and one named jax."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "jax.py").touch()
    for each in (Fault("good", ""), *FAULTS):
        source = SOURCE
        for old, new in each.members.get("changes", ()):
            assert old in source
            source = source.replace(old, new)
        for suffix in each.members.get("points", Good.points):
            install(folder, each.name, suffix, source)
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


def name_of(plugin: type) -> str:
    return "good" if plugin is Good else plugin.__name__


globals().update(suites_for(PluginSuite, "plugin", Good, FAULTS, make=name_of))


def test_there_are_faulty_plugins_of_each_kind() -> None:
    names = "".join(path.name for path in Path(__file__).parent.glob("*faulty_*.py"))
    for kind in ("backend", "evaluator", "loss", "provider", "teacher", "tracker"):
        assert f"faulty_{kind}" in names
