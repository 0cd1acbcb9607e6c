"""Faulty distributions. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from faulty_suites import suites_for

from promptbake.testing import PluginSuite

SOURCE = '''
"""A loss."""

from __future__ import annotations

from promptbake import Factories, Loss, hookimpl

PROMPTBAKE_API = 2


class Constant:
    targets = "teacher"
    linear = True

    def __call__(self, student, teacher, measure):
        return (0 * student).sum(dim=1)


def NAME(*, weight: float = 1.0) -> Loss:
    """Nothing at all."""
    return Constant()


@hookimpl
def promptbake_register_losses() -> Factories[Loss]:
    return {"NAME": NAME}
'''


@functools.cache
def site() -> Path:
    """A folder of installed distributions, for this process and for those that it starts."""
    folder = Path(tempfile.mkdtemp(prefix="promptbake-faulty-"))
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return folder


def install(name: str, source: str, *, point: str | None = None) -> None:
    module = f"faulty_{name}_module"
    (site() / f"{module}.py").write_text(source.replace("NAME", name))
    record = site() / f"{module}-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[promptbake]\n{point or name} = {module}\n")


def installed(name: str, *changes: tuple[str, str]) -> Callable[[], str]:
    """A maker of the plugin's name, which installs it first: `changes` are what is faulty."""

    def make() -> str:
        if not (site() / f"faulty_{name}_module.py").exists():
            source = SOURCE
            for old, new in changes:
                assert old in source
                source = source.replace(old, new)
            install(name, source)
        return name

    make.__name__ = name
    return make


def clashing() -> str:
    if not (site() / "faulty_one_module.py").exists():
        install("one", SOURCE.replace('"NAME"', '"same"'))
        install("other", SOURCE.replace('"NAME"', '"same"'))
    return "one"


def twice_installed() -> str:
    if not (site() / "faulty_first_module.py").exists():
        install("first", SOURCE, point="both")
        install("second", SOURCE, point="both")
    return "both"


def not_installed() -> str:
    return "nowhere"


IMPORTS = "from promptbake import Factories, Loss, hookimpl\n"
SPOILT = {
    not_installed: "test_it_is_installed",
    twice_installed: "test_it_is_installed",
    installed("broken", (IMPORTS, IMPORTS + "import no_such_module\n")): "test_it_loads",
    installed("newer", ("PROMPTBAKE_API = 1", "PROMPTBAKE_API = 2")): "test_it_loads",
    installed("silent_on_api", ("PROMPTBAKE_API = 1\n", "")): "test_it_loads",
    installed("unmarked", ("@hookimpl\n", "")): "test_it_loads",
    installed("misspelt", ("register_losses", "register_loses")): "test_it_loads",
    installed("listing", ('{"NAME": NAME}', "[NAME]")): "test_it_loads",
    installed("heavy", (IMPORTS, IMPORTS + "import torch\n")): "test_its_module_is_light",
    installed("loud", (IMPORTS, IMPORTS + "print('Hello!')\n")): "test_importing_it_prints_nothing",
    clashing: "test_no_other_plugin_offers_its_names",
    installed("undocumented", ('    """Nothing at all."""\n', "")): (
        "test_its_factories_say_what_they_make"
    ),
    installed("untyped", ("weight: float = 1.0", "weight=1.0")): "test_its_options_are_annotated",
    installed("mistyped", ("weight: float = 1.0", "weight: float = 'heavy'")): (
        "test_the_defaults_of_its_options_are_of_their_types"
    ),
    installed(
        "needy",
        (IMPORTS, IMPORTS.replace("hookimpl", "hookimpl, needs")),
        ("def NAME", '@requires(modules=("no_such_sdk",))\ndef NAME'),
    ): "test_what_it_needs_is_there",
}

globals().update(suites_for(PluginSuite, "plugin", installed("good"), SPOILT))
