"""plugins/README.md: its signatures are the code's, its examples are whole plugins that pass."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from pathlib import Path

import pytest

import promptbake.testing
from distribution import write_record
from promptbake import interfaces
from promptbake.cli.scaffold import KINDS, new_plugin
from promptbake.plugins import hookspecs
from promptbake.plugins.hookspecs import HOOKS
from promptbake.testing.inputs import InputTests

SUITES = (
    "LossSuite",
    "EvaluatorSuite",
    "TrackerSuite",
    "TeacherSuite",
    "DataProviderSuite",
    "BackendSuite",
)
FIXTURES = {"TeacherSuite": "teacher", "DataProviderSuite": "provider", "BackendSuite": "backend"}
README = Path(__file__).parents[2] / "plugins" / "README.md"
FLAGS = re.compile(r"(\| suite \| fixture .*?\|---\|---\|---\|\n).*?\n\n", re.DOTALL)
RECORD = "run this test once with PROMPTBAKE_RECORD=1, and then ruff format"
BLOCK = re.compile(
    r"<!-- (signatures|example): ([^\n]+) -->\n(?:\n```python\n(.*?)```\n)?", re.DOTALL
)


def blocks() -> dict[tuple[str, str], str]:
    return {(what, of): text for what, of, text in BLOCK.findall(README.read_text("utf-8"))}


def expected(what: str, of: str, folder: Path) -> str:
    first, *rest = of.split()
    if what == "signatures":
        return signatures(first, rest)
    repository = new_plugin(rest[0], first, folder)
    (module,) = repository.glob("*.py")
    return module.read_text("utf-8")


def signatures(kind: str, protocols: list[str]) -> str:
    """The hook of a kind and its protocols, without their docstrings."""
    hook = parsed(getattr(hookspecs, HOOKS[kind]))
    assert isinstance(hook, ast.FunctionDef)
    parts = [one_line(hook)]
    for name in protocols:
        protocol = parsed(getattr(interfaces, name))
        assert isinstance(protocol, ast.ClassDef)
        members = [each for each in protocol.body if isinstance(each, ast.FunctionDef)]
        parts.append(f"class {name}(Protocol):\n" + "\n".join(f"    {member(m)}" for m in members))
    return "\n\n".join(parts) + "\n"


def parsed(thing: object) -> ast.stmt:
    return ast.parse(inspect.getsource(thing)).body[0]  # type: ignore[arg-type]


def member(function: ast.FunctionDef) -> str:
    if any(ast.unparse(each) == "property" for each in function.decorator_list):
        assert function.returns
        return f"{function.name}: {ast.unparse(function.returns)}"
    text = one_line(function)
    if len(text) <= 96:
        return text
    head, _, tail = text.partition("(self, ")
    arguments, _, result = tail.rpartition(")")
    return f"{head}(\n        self, {arguments}\n    ){result}"


def one_line(function: ast.FunctionDef) -> str:
    assert function.returns
    arguments, result = ast.unparse(function.args), ast.unparse(function.returns)
    return f"def {function.name}({arguments}) -> {result}: ..."


def test_the_blocks_are_those_of_the_code(tmp_path: Path) -> None:
    wanted = {key: expected(*key, tmp_path) for key in blocks()}
    if os.environ.get("PROMPTBAKE_RECORD"):
        text = BLOCK.sub(
            lambda block: (
                f"<!-- {block[1]}: {block[2]} -->\n\n```python\n{wanted[block[1], block[2]]}```\n"
            ),
            README.read_text("utf-8"),
        )
        README.write_text(text, "utf-8")
    for (what, of), text in blocks().items():
        code = wanted[what, of]
        if what == "signatures":  # however they are laid out
            text, code = ast.unparse(ast.parse(text)), ast.unparse(ast.parse(code))
        assert text == code, RECORD


def flags_table() -> str:
    """A row for each suite of a kind: its fixture, and its flags with their defaults."""
    rows = []
    for name in SUITES:
        suite = getattr(promptbake.testing, name)
        fixture = getattr(suite, "fixture", None) or FIXTURES[name]
        flags = {}
        for base in reversed(suite.__mro__):
            if base not in (promptbake.testing.Suite, InputTests):
                flags |= {
                    flag: getattr(suite, flag)
                    for flag, kind in vars(base).get("__annotations__", {}).items()
                    if kind.startswith("ClassVar")
                }
        shown = [f"`{flag} = {value}`" if value is not None else f"**`{flag}`**"
                 for flag, value in flags.items()]  # fmt: skip
        rows.append(f"| `{name}` | `{fixture}` | {', '.join(shown)} |\n")
    return "".join(rows)


def test_the_table_of_flags_is_that_of_the_suites() -> None:
    text = README.read_text("utf-8")
    wanted = FLAGS.sub(lambda table: f"{table[1]}{flags_table()}\n", text)
    if os.environ.get("PROMPTBAKE_RECORD"):
        README.write_text(wanted, "utf-8")
        text = wanted
    for suite, test in re.findall(r"class \w+\((\w+)\):\n.*\n +def (test_\w+)", text):
        assert hasattr(getattr(promptbake.testing, suite), test)
    assert text == wanted, RECORD


def test_there_is_a_signature_and_an_example_of_each_kind() -> None:
    kinds = [(what, of.split()[0]) for what, of in blocks()]
    assert sorted(kind for what, kind in kinds if what == "signatures") == sorted(HOOKS)
    assert sorted(kind for what, kind in kinds if what == "example") == sorted(KINDS)


def test_the_migration_table_names_what_is_gone_and_what_there_is() -> None:
    section = README.read_text("utf-8").partition("## Moving to API 2")[2].partition("\n## ")[0]
    _, names, _, suites = section.split("|---|---|", 3)
    for public, table in ((promptbake, names), (promptbake.testing, suites)):
        for old, new in re.findall(r"^\| `(\w+)`.*? \| `(\w+)`", table, re.MULTILINE):
            assert old not in public.__all__
            assert new in public.__all__ or any(hasattr(s, new) for s in vars(public).values()), new


def test_the_examples_pass_the_tests_that_come_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = {of: text for (what, of), text in blocks().items() if what == "example"}
    for of, text in examples.items():
        kind, name = of.split()
        repository = new_plugin(name, kind, tmp_path)
        (module,) = repository.glob("*.py")
        monkeypatch.setitem(sys.modules, module.stem, None)
        del sys.modules[module.stem]  # and again at the end
        (tmp_path / module.name).write_text(text, "utf-8")
        # As installed by pip install -e .
        write_record(tmp_path, module.stem, name.replace("-", "_"), "0.1.0")
    config = next(tmp_path.glob("promptbake-*/pyproject.toml"))
    folders = sorted(tmp_path.glob("promptbake-*/tests"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the processes that the tests start
    # In this process, which has imported what takes seconds.
    options = [
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "-c",
        config,
        "--rootdir",
        tmp_path,
    ]
    assert pytest.main([*map(str, options), *map(str, folders)]) == pytest.ExitCode.OK
    assert len(folders) == len(KINDS) == len(examples)
