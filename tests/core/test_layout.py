"""The structure of the source: each rule of core/README.md, and the proof that breaking it is seen.

A rule is a function from the project's folder to the lines that say where it is broken.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).parents[2]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = sorted(path.parent.name for path in ROOT.glob("plugins/*/__init__.py"))

FLOORS = (  # of core/promptbake, from the bottom up: an import points to a lower floor
    {"costs", "errors", "redaction", "seeds", "types", "version"},
    {"concurrency", "documents", "files", "interfaces", "progress"},
    {"dataset", "plugins"},
    {"distill"},
    {"evaluate", "runs"},
    {"report", "testing"},
    {"stages"},
    {"commands"},
    {"api", "cli"},
)
STANDARD_LIBRARY_ONLY = ("costs", "errors", "redaction", "seeds", "types", "version")
MOST_MODULES = 12  # directly in core/promptbake
MOST_LINES = 400
LONGEST_CHAIN = 9


def floors(root: Path) -> Iterator[str]:
    """An import points down, or stays in its room."""
    level = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for path, room, imports in core_modules(root):
        if room == "__init__":
            yield from (f"{path} imports {name}" for name in imports)
            continue
        if room not in level:
            yield f"{path}: {room} is on no floor"
            continue
        for name in imports:
            other = name.split(".")[1]
            if other != room and level.get(other, len(FLOORS)) >= level[room]:
                yield f"{path} imports {name}"


def circles(root: Path) -> Iterator[str]:
    """No module imports another that imports it, over however many steps."""
    known = {module_name(root, path) for path in (root / "core").rglob("*.py")}
    graph = {
        module_name(root, path): imported(path, root) & known
        for path in (root / "core").rglob("*.py")
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"circle: {' -> '.join(error.args[1])}"


def chains(root: Path) -> Iterator[str]:
    """The longest chain of rooms that import each other is short; plugins count as one room."""
    graph: dict[str, set[str]] = {"plugin packages": {"promptbake"}}
    for _, room, imports in core_modules(root):
        others = {name.split(".")[1] for name in imports} - {room}
        graph.setdefault(room, set()).update(others)

    @cache
    def chain(room: str) -> tuple[str, ...]:
        below = (chain(other) for other in graph.get(room, ()))
        return (room, *max(below, key=len, default=()))

    longest = max(map(chain, graph), key=len)
    if len(longest) > LONGEST_CHAIN:
        yield f"a chain of {len(longest)}: {' -> '.join(longest)}"


def sizes(root: Path) -> Iterator[str]:
    """Few modules lie directly in the core, and no file is long."""
    direct = sorted(path.name for path in (root / "core/promptbake").glob("*.py"))
    if len(direct) > MOST_MODULES:
        yield f"{len(direct)} modules directly in core/promptbake: {', '.join(direct)}"
    for folder in ("core", "plugins", "tests"):
        for path in (root / folder).rglob("*.py"):
            lines = len(path.read_text("utf-8").splitlines())
            if lines > MOST_LINES:
                yield f"{path} has {lines} lines"


def stages(root: Path) -> Iterator[str]:
    """A stage imports no stage."""
    for path in (root / "core/promptbake/stages").glob("*.py"):
        for name in imported(path, root):
            if name.startswith("promptbake.stages"):
                yield f"{path} imports {name}"


def ground(root: Path) -> Iterator[str]:
    """The ground floor's nouns need the standard library alone."""
    for name in STANDARD_LIBRARY_ONLY:
        path = root / "core/promptbake" / f"{name}.py"
        if path.exists():
            for module in imported(path, root, at_run_time=True):
                if module.partition(".")[0] not in {*sys.stdlib_module_names, "promptbake"}:
                    yield f"{path} imports {module}"


def core_without_plugins(root: Path) -> Iterator[str]:
    """The core imports no plugin and names none; `mock`, which the suites open, is a profile's."""
    names = {name.removeprefix("promptbake_") for name in PACKAGES} - {"files", "losses"}
    names -= {"self", "mock", "checks", "jsonl"}  # words of Python's, of profiles and of files
    for path in (root / "core").rglob("*.py"):
        for module in imported(path, root):
            if module.startswith("promptbake_"):
                yield f"{path} imports {module}"
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names and node.value != "torch":
                yield f"{path}:{node.lineno} names {node.value!r}"


def plugin_imports(root: Path) -> Iterator[str]:
    """A plugin imports public names alone: promptbake's, and what other plugins publish."""
    published = {
        "promptbake": public_names(root / "core/promptbake/__init__.pyi"),
        "promptbake.testing": public_names(root / "core/promptbake/testing/__init__.pyi"),
    }
    packages = {path.parent.name: path for path in (root / "plugins").glob("*/__init__.py")}
    published |= {name: public_names(path) for name, path in packages.items()}
    for path in (root / "plugins").rglob("*.py"):
        own = path.relative_to(root / "plugins").parts[0]
        for module, names in import_statements(path):
            package = module.partition(".")[0]
            if package == own or package not in {"promptbake", *packages}:
                continue
            for name in names:
                if name not in published.get(module, ()):
                    yield f"{path}: from {module} import {name}"


def foreign_code(root: Path) -> Iterator[str]:
    """A child Python does not import from the current folder, and no model's code is run."""
    for path in [*(root / "core").rglob("*.py"), *(root / "plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            source = ast.unparse(node)
            if isinstance(node, ast.List) and source.startswith("[sys.executable, "):
                safe = source.startswith("[sys.executable, '-P', ")
            elif isinstance(node, ast.Call) and "Auto" in (called := ast.unparse(node.func)):
                safe = "from_pretrained" not in called or "trust_remote_code=False" in source
            else:
                continue
            if not safe:
                yield f"{path}:{node.lineno}: {source}"


BROKEN = (  # a rule, and a file that breaks it
    (floors, "core/promptbake/distill/up.py", "from promptbake.stages import bake"),
    (circles, "core/promptbake/types.py", "import promptbake.files"),
    (chains, "core/promptbake/cli/up.py", "import promptbake.room0"),
    (sizes, "tests/long.py", "x = 1\n" * (MOST_LINES + 1)),
    (sizes, "core/promptbake/m{}.py", ""),
    (stages, "core/promptbake/stages/bake.py", "from promptbake.stages import data"),
    (ground, "core/promptbake/types.py", "import torch"),
    (core_without_plugins, "core/promptbake/runs/x.py", "if backend == 'tinker': ..."),
    (core_without_plugins, "core/promptbake/runs/x.py", "import promptbake_torch"),
    (plugin_imports, "plugins/promptbake_a/x.py", "from promptbake.runs.config import Config"),
    (plugin_imports, "plugins/promptbake_a/x.py", "from promptbake_b import Hidden"),
    (foreign_code, "plugins/promptbake_a/x.py", "run([sys.executable, '-m', 'pip'])"),
    (foreign_code, "core/promptbake/x.py", "transformers.AutoConfig.from_pretrained(folder)"),
)
RULES = {rule for rule, *_ in BROKEN}


@pytest.mark.parametrize("rule", sorted(RULES, key=lambda rule: rule.__name__))
def test_the_source_keeps_the_rule(rule: Callable[[Path], Iterator[str]]) -> None:
    assert list(rule(ROOT)) == []


@pytest.mark.parametrize(("rule", "file", "text"), BROKEN)
def test_a_broken_rule_is_seen(
    rule: Callable[[Path], Iterator[str]], file: str, text: str, tmp_path: Path
) -> None:
    tree(tmp_path)
    assert list(rule(tmp_path)) == []
    for number in range(MOST_MODULES + 1 if "{}" in file else 1):
        path = tmp_path / file.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if rule is chains:
        for number in range(LONGEST_CHAIN):
            next_room = f"import promptbake.room{number + 1}"
            (tmp_path / f"core/promptbake/room{number}.py").write_text(next_room)
    assert list(rule(tmp_path))


def tree(root: Path) -> None:
    """A small project that keeps every rule."""
    core = root / "core/promptbake"
    for room in ("cli", "distill", "runs", "stages", "testing"):
        (core / room).mkdir(parents=True)
    for name in ("a", "b"):
        (root / f"plugins/promptbake_{name}").mkdir(parents=True)
        (root / f"plugins/promptbake_{name}/__init__.py").write_text("__all__ = ['Seen']")
    (root / "tests").mkdir()
    (core / "__init__.py").write_text("import lazy_loader")
    (core / "__init__.pyi").write_text("__all__ = ['Model']")
    (core / "types.py").write_text("import dataclasses")
    (core / "files.py").write_text("import promptbake.types")
    (core / "stages/data.py").write_text("from promptbake.files import write_json")
    (core / "testing/__init__.pyi").write_text("__all__ = []")
    (root / "plugins/promptbake_a/x.py").write_text("from promptbake_b import Seen")


def core_modules(root: Path) -> Iterator[tuple[Path, str, set[str]]]:
    """Each module of the core: its path, its room, and what it imports of the core's modules."""
    for path in sorted((root / "core/promptbake").rglob("*.py")):
        room = path.relative_to(root / "core/promptbake").parts[0].removesuffix(".py")
        names = {name for name in imported(path, root) if name.startswith("promptbake.")}
        yield path, room, names


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root / "core").with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def import_statements(path: Path, at_run_time: bool = False) -> Iterator[tuple[str, list[str]]]:
    """(module, names) of each import, at the top or within, for the type checker or for real."""
    tree_ = ast.parse(path.read_text("utf-8"))
    hidden = {
        inner
        for node in ast.walk(tree_)
        if at_run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree_):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, ["(the module)"]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]


def imported(path: Path, root: Path, at_run_time: bool = False) -> set[str]:
    """The modules that a file imports; `from package import module` counts as the module."""
    modules: set[str] = set()
    for module, names in import_statements(path, at_run_time):
        whole = {f"{module}.{name}" for name in names}
        modules |= {name for name in whole if is_module(root, name)} or {module}
    return modules - {"promptbake"}


def is_module(root: Path, name: str) -> bool:
    path = root / "core" / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def public_names(path: Path) -> set[str]:
    """The strings in a module's `__all__`."""
    if not path.exists():
        return set()
    match = re.search(r"^__all__ = \[(.*?)\]", path.read_text("utf-8"), re.S | re.M)
    return set(re.findall(r"['\"](\w+)['\"]", match.group(1))) if match else set()


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
