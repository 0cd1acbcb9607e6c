"""runs/<prompt>/: the files of a run, its record in run.json, and what is stale in it."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout
from pydantic import ConfigDict, Field, JsonValue

from promptbake.distill.checkpoints import CARD
from promptbake.documents.typed import Amount, Count, Document, read_json
from promptbake.errors import BakeError
from promptbake.files import owned_by, write_json

if TYPE_CHECKING:
    from promptbake.runs.config import Config

StageState = Literal["fresh", "resumed", "done"]
# What a kill leaves of the very first file of a run, with the run's id.
FIRST_PARTIAL = re.compile(r"\.run\.json-([0-9a-f]{16})-\w+\.partial")
ANOTHER = "give --run another folder"


class StageRecord(Document):
    """What is on record of a stage."""

    model_config = ConfigDict(extra="allow")
    inputs: dict[str, JsonValue]
    done: bool
    seconds: Amount
    conversations: Count | None = None
    held_out: Count | None = None
    rejected: Count | None = None
    steps: Count | None = None
    margins: dict[str, float] | None = None


class RunRecord(Document):
    """What run.json holds; the settings in it are for people, and are not read again.

    A folder with one is a run; without it, it is somebody else's.
    """

    model_config = ConfigDict(extra="allow")
    schema_: Literal[1] = Field(alias="schema")
    config: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str]
    plugins: dict[str, str] = Field(default_factory=dict)
    stages: dict[str, StageRecord]


class Run:
    """A run folder.

    `run.json` is what makes a folder a run: nothing is written to, moved in or deleted from a
    folder that holds other files and no such record. It records for each stage the inputs that
    made it. A stage is stale when its inputs are not those on record, and that is decided here and
    nowhere else.
    """

    RECORD = "run.json"

    def __init__(self, path: Path) -> None:
        # Its name is used, and one folder has one lock, by whichever link it is reached.
        if path.name in ("", "..") or path.is_symlink():
            try:
                path = path.resolve()
            except (OSError, RuntimeError):
                raise BakeError(f"{path}: is a symbolic link that leads nowhere") from None
        self.path = path
        self.begun = ""  # the stage that this object has recorded as begun
        self.record_file = path / self.RECORD
        self.data = path / "data.jsonl"
        self.held_out = path / "held_out.jsonl"
        self.queries = path / "queries.jsonl"
        self.query_answers = path / "query_answers.txt"  # where they were no queries
        self.rejected = path / "rejected.jsonl"
        self.teacher_logprobs = path / "teacher_logprobs"
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.card = self.adapter / CARD
        self.costs = path / "costs.jsonl"
        self.evaluators = path / "evaluators"
        self.metrics = path / "metrics.jsonl"
        self.measurements = path / "measurements.jsonl"
        self.evidence = path / "evidence.json"
        self.verify = path / "verify.json"
        self.junit = path / "verify.junit.xml"
        self.report = path / "report.html"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while a stage runs; a kill's partial files are deleted first.

        Raises BakeError for a folder of somebody else's, which is left as it is.
        """
        self._refuse_others()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.promptbake.lock")
        try:
            with FileLock(lock, timeout=0), owned_by(self.path, self.id):
                yield
        except Timeout:
            raise BakeError(
                f"{self.path}: another promptbake is running in this run; wait for it, or {ANOTHER}"
            ) from None

    @property
    def record(self) -> dict[str, Any]:
        """What run.json holds; empty before the first stage."""
        if not self.record_file.exists():
            return {}
        try:
            return read_json(RunRecord, self.record_file).model_dump(
                by_alias=True, exclude_unset=True
            )
        except BakeError as error:
            raise BakeError(f"{error}; move {self.path} away, or {ANOTHER}") from None

    @cached_property
    def id(self) -> str:
        """What names the run's partial files: 16 hex digits, on record since its beginning."""
        known = self.record.get("id")
        if isinstance(known, str) and re.fullmatch("[0-9a-f]{16}", known):
            return known
        names = self._names() if self.path.is_dir() and not self.record else []
        left = [match[1] for name in names if (match := FIRST_PARTIAL.fullmatch(name))]
        return left[0] if left else secrets.token_hex(8)

    @property
    def _own_names(self) -> set[str]:
        paths = [each for each in vars(self).values() if isinstance(each, Path)]
        own = {each.name for each in paths if each.parent == self.path}
        return own | set(self.record.get("files", ()))

    def _refuse_others(self) -> None:
        """Raise BakeError for a folder that is not empty and not a run, or is linked elsewhere."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise BakeError(f"{self.path}: is not a folder; give --run another")
        if self.record:
            for name in sorted(self._own_names):
                if (self.path / name).is_symlink():
                    raise BakeError(
                        f"{self.path / name}: is a symbolic link, which no file of a run is; "
                        f"replace it by what it leads to, or {ANOTHER}"
                    )
            return
        for entry in sorted(self.path.iterdir()):
            if not FIRST_PARTIAL.fullmatch(entry.name):
                raise BakeError(
                    f"{self.path}: is not empty ({entry.name}) and is no run of promptbake, since "
                    f"it has no {self.record_file.name}; {ANOTHER}"
                )

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
        if changed or not stage.get("clean", True):
            return "fresh", changed
        return ("done" if stage["done"] else "resumed"), []

    def begin(
        self,
        name: str,
        inputs: Mapping[str, Any],
        config: Mapping[str, Any],
        plugins: Mapping[str, str] | None = None,
        profile: str = "",
        clean: bool = True,
        fixed: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Record that a stage has begun; its seconds so far are kept where it resumes.

        Args:
            name: The stage.
            inputs: What its result depends on.
            config: All settings.
            plugins: The versions of the plugins that the config names.
            profile: The one that was chosen.
            clean: Whether nothing is left of a stage with other inputs. Where something is, the
                stage is fresh until `set_clean`, whatever kills it.
            fixed: What else is recorded of the stage; it stays as it was where the stage resumes.
        """
        self.begun = name
        stages = self.record.get("stages", {})
        before = stages.get(name, {})
        resumes = before.get("inputs") == _as_read(inputs)
        seconds = before["seconds"] if resumes else 0.0
        stages[name] = {"inputs": inputs, "done": False, "seconds": seconds}
        for key, value in (fixed or {}).items():
            stages[name][key] = before.get(key, value) if resumes else value
        if not clean:
            stages[name]["clean"] = False
        self._write(
            profile=profile,
            config=config,
            versions=versions(),
            plugins=plugins or {},
            stages=stages,
        )

    def claim(self) -> None:
        """Make the folder a run, before anything else is written to it."""
        if not self.record_file.exists():
            self._write(versions=versions())

    def set_clean(self, name: str) -> None:
        """Record that what an earlier stage left is deleted."""
        self._update(name, clean=True)

    def add_input(self, name: str, key: str, value: object) -> None:
        """Record an input of a stage that is known only once it works."""
        self._update(name, inputs=self.stage(name)["inputs"] | {key: value})

    @contextmanager
    def recording_files(self) -> Iterator[None]:
        """Record what a plugin creates in the folder, so that it belongs to the run."""
        before = set(self._names())
        yield
        if new := set(self._names()) - before - self._own_names:
            self._write(files=sorted({*self.record.get("files", ()), *new}))

    def _names(self) -> list[str]:
        return [entry.name for entry in self.path.iterdir()]

    def _write(self, **changes: object) -> None:
        empty = {"schema": 1, "id": self.id, "stages": {}}
        write_json(self.record_file, empty | self.record | {"id": self.id} | changes)

    def _update(self, name: str, **changes: object) -> None:
        stages = self.record["stages"]
        stages[name] |= changes
        self._write(stages=stages)

    def finish(self, name: str, seconds: float, **results: object) -> None:
        """Record that a stage is done; its seconds add to those of interrupted runs."""
        so_far = self.stage(name)["seconds"]
        self._update(name, done=True, seconds=round(so_far + seconds, 1), **results)

    def check_replaceable(self, config: Config, profile: str) -> None:
        """Raise BakeError where a finished bake of another profile or model would be replaced."""
        if not self.stage("bake").get("done"):
            return
        before = self.record["config"]
        pairs = {
            "profile": (self.record.get("profile", profile), profile),
            "model": (before["model"]["name"], config.model.name),
            "backend": (before["train"]["backend"], config.train.backend),
        }
        if other := [f"{what} {was}" for what, (was, now) in pairs.items() if was != now]:
            raise BakeError(
                f"{self.path}: holds a finished bake with the {', '.join(other)}; {ANOTHER} "
                "(make: RUN=...), or replace it with --force (make: FORCE=1)"
            )

    def archive(self) -> Path:
        """Move the run to a new name, so that nothing that was paid for is lost.

        Raises BakeError where the folder holds what is not the run's.
        """
        own = self._own_names
        if others := sorted(name for name in self._names() if name not in own):
            raise BakeError(
                f"{self.path}: its settings changed, so the run would be moved to a new name, but "
                f"{others[0]} is none of its files; move that away, or {ANOTHER}"
            )
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
