"""`promptbake new-plugin`: writes a repository for a plugin, ready to install and to test."""

from __future__ import annotations

import keyword
import re
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined

from promptbake.errors import BakeError, nearest
from promptbake.files import atomic_folder
from promptbake.plugins.hookspecs import find_kind
from promptbake.plugins.registry import GROUP, load
from promptbake.version import __version__

KINDS = {  # what a person calls a kind: its plural, as in HOOKS, and the setting that chooses one
    "data-provider": ("data_providers", "--set data.provider={}"),
    "teacher": ("teachers", "--set teacher.source={}"),
    "loss": ("losses", "--set train.loss={}"),
    "backend": ("backends", "--set train.backend={0} --set data.provider=self"),
    "evaluator": ("evaluators", "--set 'verify.evaluators=[\"{}\"]'"),
    "tracker": ("trackers", '--set \'train.trackers=["jsonl", "{}"]\''),
    "command": ("commands", ""),
}


def new_plugin(name: str, kind: str, parent: Path) -> Path:
    """Write the repository `promptbake-<name>` into a folder; returns its path.

    Raises:
        BakeError: The kind is unknown, no module can have the name, or the name or the folder is
            already in use.
    """
    words = _words(name, kind)
    folder = parent / words["distribution"]
    if folder.exists():
        raise BakeError(f"{folder}: already exists; choose another name, or --to another folder")
    files_by_path = render(words, words["kind"])
    with atomic_folder(folder) as new:
        for path, text in files_by_path.items():
            (new / path).parent.mkdir(exist_ok=True)
            (new / path).write_text(text, "utf-8")
    return folder


def render(words: dict[str, str], kind: str) -> dict[str, str]:
    """The files of such a repository, by path; `kind` is one of the plurals."""
    jinja = Environment(
        loader=FunctionLoader(_template), undefined=StrictUndefined, keep_trailing_newline=True
    )
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        f"{words['module']}.py": f"{kind}.py",
        f"tests/test_{words['name']}.py": f"test_{kind}.py",
    }
    return {
        path: jinja.get_template(f"{template}.j2").render(words)
        for path, template in templates.items()
    }


def _words(name: str, kind: str) -> dict[str, str]:
    """What the templates are filled with."""
    kind = next((name for name, (plural, _) in KINDS.items() if plural == find_kind(kind)), kind)
    if kind not in KINDS:
        raise BakeError(
            f"--kind {kind}: unknown kind; choose from: {', '.join(KINDS)}{nearest(kind, KINDS)}"
        )
    snake = name.lower().replace("-", "_").removeprefix("promptbake_")
    if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", snake) or keyword.iskeyword(snake):
        raise BakeError(f"{name}: expected a name of letters and digits, such as skew-kl")
    plural, setting = KINDS[kind]
    for factory in load().of(plural):
        if factory.name == snake:
            raise BakeError(f"{name}: the plugin {factory.plugin} already offers this {kind}")
    if entry_points(group=GROUP, name=snake) or find_spec(f"promptbake_{snake}"):
        raise BakeError(f"{name}: a plugin of this name is already installed; choose another name")
    return {
        "name": snake,
        "Name": "".join(part.capitalize() for part in snake.split("_")),
        "module": f"promptbake_{snake}",
        "distribution": f"promptbake-{snake.replace('_', '-')}",
        "what": kind.replace("-", " "),
        "kind": plural,
        "setting": setting.format(snake),
        "promptbake": __version__,
    }


def _template(name: str) -> str:
    return (files("promptbake") / "templates" / "plugin" / name).read_text("utf-8")
