"""`promptbake init`: writes the prompts that promptbake comes with, ready to bake."""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from promptbake.errors import BakeError
from promptbake.files import atomic_folder
from promptbake.plugins.registry import load
from promptbake.runs.describe import json_schema

FOLDER = "prompts"
SCHEMA = "promptbake.schema.json"  # which the prompts' TOML files name in their first line
CHECKOUT = Path(__file__).parents[3]


def write_prompts(parent: Path) -> Path:
    """Write `prompts/` into a folder; returns its path. Raises BakeError where it exists."""
    folder = parent / FOLDER
    if folder.exists():
        raise BakeError(f"{folder}: already exists; choose another folder with --to")
    packaged = files("promptbake") / FOLDER  # of the wheel
    with (
        as_file(packaged if packaged.is_dir() else CHECKOUT / FOLDER) as source,
        atomic_folder(folder) as new,
    ):
        shutil.copytree(source, new, dirs_exist_ok=True)
        (new / SCHEMA).write_text(schema_text(), "utf-8")
    return folder


def schema_text() -> str:
    """The JSON Schema of a prompt's TOML file, for the installed plugins."""
    return json.dumps(json_schema(load().factories), ensure_ascii=False, indent=2) + "\n"
