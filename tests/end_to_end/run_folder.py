"""A run of all stages and what its folder holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command import Result, promptbake

from promptbake.distill.checkpoints import CHECKSUMS, digests

PROMPT = 'Speak as a pirate, always: "Arr", matey — the sea, the gold,\nand the good ship Quartz.'
KEY = "sk-test-5f0c2d7e"
STAGES = ("data", "bake", "verify", "report")
MOCK = ("--profile", "mock")


@dataclass(frozen=True)
class Finished:
    """A run of all stages, and what they printed."""

    folder: Path
    data: Path  # the folder as it was after the first stage
    results: dict[str, Result]

    def read_json(self, name: str) -> Any:
        """A JSON file of the run."""
        return json.loads((self.folder / name).read_bytes())


def settings(*values: str) -> list[str]:
    """The arguments that set these values."""
    return [argument for value in values for argument in ("--set", value)]


def tree(folder: Path) -> dict[str, str]:
    """Digests of all files below a folder, by path; lock files aside."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, of which every line must be whole; none where there is none."""
    text = path.read_text("utf-8") if path.exists() else "\n"
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n") if line]


def write_conversations(*turns: tuple[str, ...]) -> None:
    """Write mine.jsonl: the turns of each conversation, the user's first."""
    with Path("mine.jsonl").open("w", encoding="utf-8") as file:
        for texts in turns:
            roles = ("user", "assistant") * len(texts)
            messages = [
                {"role": role, "content": text} for role, text in zip(roles, texts, strict=False)
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def ids(folder: Path) -> list[str]:
    """The ids of a run's stored conversations."""
    files = (folder / "data.jsonl", folder / "held_out.jsonl", folder / "rejected.jsonl")
    return [line["id"] for file in files for line in read_lines(file)]


def record_as_baked(run: Path) -> None:
    """Put the adapter's files as they are now on record, as whoever made them would."""
    record = json.loads((run / "run.json").read_bytes())
    record["stages"]["bake"]["adapter"] = digests(run / "adapter")
    (run / "run.json").write_text(json.dumps(record))


def record_as_saved(state: Path) -> None:
    """Put a training state's files as they are now on record."""
    record = {name: each for name, each in digests(state).items() if name != CHECKSUMS}
    (state / CHECKSUMS).write_text(json.dumps(record))


def refused(stage: str, prompt: str | Path, *arguments: str) -> str:
    """The one line with which a command is refused; it must leave every file as it was."""
    folder = Path.cwd()
    before = tree(folder)
    result = promptbake(stage, prompt, *MOCK, *arguments)
    complaint = result.complaint
    said = stage == "chat" and "chat: loading " in result.err
    assert result.err.count("\n") == 1 + said, result.err
    assert result.out == ""
    assert tree(folder) == before
    return complaint
