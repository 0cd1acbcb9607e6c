"""runs/<prompt>/: the files of a run, its record in run.json, and what is stale in it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from promptbake.errors import BakeError
from promptbake.files import delete_partial, write_json

StageState = Literal["fresh", "resumed", "done"]


class Run:
    """A run folder.

    `run.json` records for each stage the inputs that made it. A stage is stale when its inputs
    are not those on record, and that is decided here and nowhere else.
    """

    RECORD = "run.json"

    def __init__(self, path: Path) -> None:
        if path.name in ("", ".."):  # its name is used
            path = path.resolve()
        self.path = path
        self.record_file = path / self.RECORD
        self.data = path / "data.jsonl"
        self.held_out = path / "held_out.jsonl"
        self.queries = path / "queries.jsonl"
        self.rejected = path / "rejected.jsonl"
        self.teacher_logprobs = path / "teacher_logprobs"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.costs = path / "costs.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.verify = path / "verify.json"
        self.report = path / "report.html"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while a stage runs; a kill's partial files are deleted first."""
        if self.path.exists() and not self.path.is_dir():
            raise BakeError(f"{self.path}: is not a folder; give --run another")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0):
                delete_partial(self.path)
                yield
        except Timeout:
            raise BakeError(
                f"{self.path}: another promptbake is running in this run; wait for it, or give "
                "--run another folder"
            ) from None

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds; empty before the first stage."""
        if not self.record_file.exists():
            return {}
        try:
            record: dict[str, Any] = json.loads(self.record_file.read_bytes())
        except ValueError as error:
            raise BakeError(
                f"{self.record_file}: is not JSON ({error}); delete {self.path} to start anew"
            ) from None
        return record

    def stage(self, name: str) -> dict[str, Any]:
        """What is on record of a stage: `inputs`, `done`, `seconds` and its results."""
        stage: dict[str, Any] = self.record.get("stages", {}).get(name, {})
        return stage

    def state(self, name: str, inputs: Mapping[str, Any]) -> tuple[StageState, list[str]]:
        """Whether a stage begins, resumes or is done, and which inputs have changed."""
        stage = self.stage(name)
        if not stage:
            return "fresh", []
        changed = _differences(stage["inputs"], _as_read(inputs))
        if changed:
            return "fresh", changed
        return ("done" if stage["done"] else "resumed"), []

    def begin(
        self,
        name: str,
        inputs: Mapping[str, Any],
        config: Mapping[str, Any],
        plugins: Mapping[str, str] | None = None,
    ) -> None:
        """Record that a stage has begun; its seconds so far are kept where it resumes.

        `plugins` are the versions of those that the config names.
        """
        record = self.record
        stages = record.get("stages", {})
        before = stages.get(name, {})
        resumes = before.get("inputs") == _as_read(inputs)
        seconds = before["seconds"] if resumes else 0.0
        stages[name] = {"inputs": inputs, "done": False, "seconds": seconds}
        write_json(
            self.record_file,
            {
                "schema": 1,
                "config": config,
                "versions": versions(),
                "plugins": plugins or {},
                "stages": stages,
            },
        )

    def finish(self, name: str, seconds: float, **results: object) -> None:
        """Record that a stage is done; its seconds add to those of interrupted runs."""
        record = self.record
        stage = record["stages"][name]
        stage |= {"done": True, "seconds": round(stage["seconds"] + seconds, 1), **results}
        write_json(self.record_file, record)

    def archive(self) -> Path:
        """Move the run to a new name, so that nothing that was paid for is lost."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}~{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside


def versions(*, missing: bool = False) -> dict[str, str | None]:
    """Of Python, of this package, and of what it needs as far as that is installed.

    With `missing`, None for what its extras would bring and is not installed.
    """
    versions: dict[str, str | None] = {
        "python": sys.version.split()[0],
        "promptbake": version("promptbake"),
    }
    for requirement in requires("promptbake") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if name == "promptbake" or re.search("extra == .(dev|testing)", requirement):
            continue
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            if missing:
                versions[name] = None
    return versions


def _as_read(inputs: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(inputs))


def _differences(before: Any, after: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        changed = []
        for name in sorted(before.keys() | after.keys()):
            inner = f"{key}.{name}" if key else name
            changed += _differences(before.get(name), after.get(name), inner)
        return changed
    return [] if before == after else [key]
