"""The conformance suite for an installed plugin: its entry point, its module, its factories."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import GROUP, Registry, load
from promptbake.runs.layers import resolve
from promptbake.testing.suite import Suite, noted

HEAVY = ("torch", "transformers", "numpy", "pandas", "tensorflow", "jax")
IMPORT = f"""if True:
    import json, sys
    from importlib.metadata import entry_points
    for point in entry_points(group={GROUP!r}, name=sys.argv[1]):
        point.load()
    sys.stderr.flush()
    print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))
"""


class PluginSuite(Suite):
    """Fixture `plugin`: the name of the plugin's entry point in the group `promptbake`."""

    def test_it_is_installed(self, plugin: str) -> None:
        points = _points(plugin)
        assert points, (
            f"no installed distribution has an entry point {plugin!r} in the group {GROUP!r}: see "
            f'[project.entry-points.{GROUP}] in pyproject.toml, and "pip install -e ." again'
        )
        assert len(points) == 1, (
            f"{len(points)} installed distributions have an entry point {plugin!r}: "
            f"{', '.join(point.value for point in points)}; rename yours"
        )

    def test_it_loads(self, plugin: str) -> None:
        reasons = [failure.reason for failure in _registry(plugin).load_failures]
        assert not reasons, f"it did not load: {'; '.join(reasons)}"

    def test_its_module_is_light(self, plugin: str) -> None:
        heavy = json.loads(_imported(plugin)[-1])
        assert not heavy, (
            f"importing it imports {', '.join(heavy)}, and each `promptbake` command imports it: "
            "import that inside the functions, and under `if TYPE_CHECKING` for annotations"
        )

    def test_importing_it_prints_nothing(self, plugin: str) -> None:
        printed = _imported(plugin)[:-1]
        assert not printed, f"importing it prints {printed}"

    def test_no_other_plugin_offers_its_names(self, plugin: str) -> None:
        mine = {(factory.kind, factory.name) for factory in _factories(plugin)}
        for conflict in load().conflicts:
            kind, name = conflict[0].kind, conflict[0].name
            plugins = " and ".join(factory.plugin for factory in conflict)
            assert (kind, name) not in mine, f"{kind} {name!r}: offered by {plugins}"

    def test_its_factories_are_documented(self, plugin: str) -> None:
        for factory in _factories(plugin):
            assert (getattr(factory.function, "__doc__", None) or "").strip(), (
                f"{factory.name}: the factory has no docstring; users read it where options are "
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
            with noted(f"{factory.name}: a default is not of its option's type"):
                assert not defaults or factory.check(defaults)

    def test_its_profiles_are_settings(self, plugin: str) -> None:
        for factory in _factories(plugin):
            if factory.kind == "profiles":
                resolve(factory.name, registry=_registry(plugin))

    def test_what_it_requires_is_installed(self, plugin: str) -> None:
        for factory in _factories(plugin):
            missing = ", ".join(factory.missing_modules)
            assert not missing, (
                f"{factory.name} requires {missing}: pip install {factory.requirements.install}"
            )


@cache
def _imported(plugin: str) -> list[str]:
    """What a new process prints that imports the plugin; the last line names heavy modules."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", IMPORT, plugin], text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"it cannot be imported:\n{done.stdout[-800:]}"
    return done.stdout.splitlines()


def _points(plugin: str) -> list[EntryPoint]:
    return list(entry_points(group=GROUP, name=plugin))


def _registry(plugin: str) -> Registry:
    return load(_points(plugin))


def _factories(plugin: str) -> tuple[PluginFactory, ...]:
    factories = _registry(plugin).factories
    assert factories, f"the plugin {plugin!r} offers nothing: see the other tests"
    return factories
