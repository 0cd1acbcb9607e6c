"""The conformance suite for an installed plugin: how it is found, and what it factories."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from promptbake.errors import BakeError
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import GROUP, Registry, load
from promptbake.testing.suite import Suite

HEAVY = ("torch", "transformers", "numpy", "pandas", "tensorflow", "jax")
LOADED = f"""if True:
    import json, sys
    from importlib.metadata import entry_points
    for point in entry_points(group={GROUP!r}, name=sys.argv[1]):
        point.load()
    print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))
"""


class PluginSuite(Suite):
    """Fixture `plugin`: the name of the plugin's entry point in the group `promptbake`."""

    def test_it_is_installed(self, plugin: str) -> None:
        found = _points(plugin)
        assert found, (
            f"no installed distribution has an entry point {plugin!r} in the group {GROUP!r}: see "
            f'[project.entry-points.{GROUP}] in pyproject.toml, and "pip install -e ." again'
        )
        assert len(found) == 1, (
            f"{len(found)} installed distributions have an entry point {plugin!r}: "
            f"{', '.join(point.value for point in found)}; rename yours"
        )

    def test_it_loads(self, plugin: str) -> None:
        reasons = [failure.reason for failure in _registry(plugin).load_failures]
        assert not reasons, f"it did not load: {'; '.join(reasons)}"

    def test_its_module_is_light(self, plugin: str) -> None:
        done = _imported(plugin)
        assert done.returncode == 0, f"it cannot be imported:\n{done.stderr[-800:]}"
        heavy = json.loads(done.stdout.splitlines()[-1])
        assert not heavy, (
            f"importing it imports {', '.join(heavy)}, and each `promptbake` command imports it: "
            "import that inside the functions, and under `if TYPE_CHECKING` for annotations"
        )

    def test_importing_it_prints_nothing(self, plugin: str) -> None:
        done = _imported(plugin)
        said = "".join(done.stdout.splitlines(keepends=True)[:-1]) + done.stderr
        assert not said, f"importing it prints {said[:200]!r}"

    def test_no_other_plugin_offers_its_names(self, plugin: str) -> None:
        mine = {(factory.kind, factory.name) for factory in _factories(plugin)}
        for conflict in load().conflicts:
            if (conflict[0].kind, conflict[0].name) in mine:
                names = " and ".join(factory.plugin for factory in conflict)
                raise AssertionError(f"{conflict[0].kind} {conflict[0].name!r}: offered by {names}")

    def test_its_factories_say_what_they_make(self, plugin: str) -> None:
        silent = [factory.name for factory in _factories(plugin) if not _docstring(factory)]
        assert not silent, (
            f"{', '.join(silent)}: the factory has no docstring; users read it where options are "
            "explained"
        )

    def test_its_options_are_annotated(self, plugin: str) -> None:
        for factory in _factories(plugin):
            bare = [option.name for option in factory.options if option.type == "Any"]
            assert not bare, (
                f"{factory.name}: the options {', '.join(bare)} have no type, so that --set cannot "
                "check what a user gives"
            )

    def test_the_defaults_of_its_options_are_of_their_types(self, plugin: str) -> None:
        for factory in _factories(plugin):
            defaults = {each.name: each.default for each in factory.options if not each.required}
            try:
                factory.check(defaults)
            except BakeError as error:
                raise AssertionError(f"a default is not of its option's type: {error}") from None

    def test_what_it_needs_is_there(self, plugin: str) -> None:
        for factory in _factories(plugin):
            missing = ", ".join(factory.missing_modules)
            assert not missing, (
                f"{factory.name} needs {missing}: pip install {factory.requirements.install}"
            )


@cache
def _imported(plugin: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOADED, plugin], capture_output=True, text=True, check=False
    )


def _points(plugin: str) -> list[EntryPoint]:
    return list(entry_points(group=GROUP, name=plugin))


def _registry(plugin: str) -> Registry:
    return load(_points(plugin))


def _factories(plugin: str) -> tuple[PluginFactory, ...]:
    factories = _registry(plugin).factories
    assert factories, f"the plugin {plugin!r} factories nothing: see the other tests"
    return factories


def _docstring(factory: PluginFactory) -> str:
    text = getattr(factory.factory, "__doc__", None)
    return text.strip() if isinstance(text, str) else ""
