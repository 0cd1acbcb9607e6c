"""Training runs, their checkpoints and the samplers, on disk: a restarted server knows them."""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from threading import RLock

import safetensors.torch
from torch import Tensor

from promptbake import atomic_folder, write_atomic
from promptbake_loopback.errors import HttpError, UserError
from promptbake_loopback.tinker.lora import LoraShape

UNLISTED = "unlisted_weights"  # what save_weights_and_get_sampling_client leaves
# The middle part of an address.
KINDS = frozenset({"weights", "sampler_weights", "external_weights", UNLISTED})
NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
PLAIN = r"[A-Za-z0-9_-][A-Za-z0-9._:-]*"  # no path to another folder
YOUNG = 3600.0  # seconds
SHORTEST_TTL, LONGEST_TTL = 3600, 10 * 366 * 86400  # seconds
RECORD, WEIGHTS, OPTIMIZER, FILES = "record.json", "lora.safetensors", "adam.safetensors", "files"


@dataclass(frozen=True)
class Run:
    """A training run. Its id is in every address of a checkpoint: tinker://ID/KIND/NAME."""

    id: str
    base_model: str
    shape: LoraShape


@dataclass(frozen=True)
class Checkpoint:
    """One of a run's checkpoints; `uid` tells apart what had the same name in turn."""

    run: str
    kind: str
    name: str
    uid: str
    expires: float | None  # seconds since the epoch
    size: int  # bytes

    @property
    def path(self) -> str:
        """Its address."""
        return f"tinker://{self.run}/{self.kind}/{self.name}"


@dataclass(frozen=True)
class Sampler:
    """What a sampling session samples from: a checkpoint, or the base model."""

    id: str
    base_model: str
    model_path: str | None


class Store:
    """The state folder. `clock` gives seconds since the epoch."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._lock = RLock()
        folder.mkdir(parents=True, exist_ok=True)
        for partial in sorted(folder.rglob(".*.partial"), reverse=True):
            _delete_left(partial)

    def add_run(self, run_id: str, base_model: str, shape: LoraShape) -> Run:
        """Record a new training run."""
        run = Run(run_id, base_model, shape)
        write_atomic(self._run_folder(run_id) / RECORD, json.dumps(asdict(run)))
        return run

    def run(self, run_id: str) -> Run:
        """A training run. Raises HttpError 404."""
        file = self._run_folder(run_id) / RECORD
        if not file.is_file():
            raise HttpError(404, f"there is no training run {run_id}")
        found = json.loads(file.read_bytes())
        return Run(found["id"], found["base_model"], LoraShape(**found["shape"]))

    def save(
        self,
        run: str,
        kind: str,
        name: str,
        files: Mapping[str, bytes],
        *,
        ttl: int | None = None,
        overwrite: bool = False,
    ) -> Checkpoint:
        """Write a checkpoint, whole or not at all. Raises UserError for a name that is taken."""
        if not re.fullmatch(NAME, name):
            raise UserError(f"a checkpoint's name has letters, digits and ._-, found {name!r}")
        expires = None if ttl is None else self._clock() + _checked(ttl)
        size = sum(map(len, files.values()))
        uid = uuid.uuid4().hex
        checkpoint = Checkpoint(run, kind, name, uid, expires, size)
        with self._lock:
            if not overwrite and self._live(run, kind, name):
                raise UserError(f"{checkpoint.path} exists; save with overwrite to replace it")
            with atomic_folder(self._place(checkpoint)) as new:
                for file, content in files.items():
                    write_atomic(new / file, content)
                write_atomic(new / RECORD, json.dumps(asdict(checkpoint)))
        return checkpoint

    def find(self, path: str) -> Checkpoint:
        """A checkpoint by its address. Raises UserError for none, or one that has expired."""
        parts = re.fullmatch(rf"tinker://({PLAIN})/([a-z_]+)/({PLAIN})", path)
        known = parts is not None and parts[2] in KINDS
        found = self._live(*parts.groups()) if parts is not None and known else None
        if found is None:
            raise UserError(f"{path}: no such checkpoint, or it has expired")
        return found

    def read(self, checkpoint: Checkpoint, file: str) -> bytes:
        """One of its files."""
        return (self._place(checkpoint) / file).read_bytes()

    def tensors(self, checkpoint: Checkpoint, file: str = WEIGHTS) -> dict[str, Tensor]:
        """One of its safetensors files."""
        return safetensors.torch.load(self.read(checkpoint, file))

    def files(self, checkpoint: Checkpoint) -> list[str]:
        """The names of an export's files."""
        return sorted(file.name for file in (self._place(checkpoint) / FILES).iterdir())

    def delete(self, checkpoint: Checkpoint) -> None:
        """Delete it for good."""
        with self._lock:
            shutil.rmtree(self._place(checkpoint))

    def set_ttl(self, checkpoint: Checkpoint, ttl: int | None) -> None:
        """Let it expire so many seconds from now, or never."""
        expires = None if ttl is None else self._clock() + _checked(ttl)
        changed = replace(checkpoint, expires=expires)
        write_atomic(self._place(checkpoint) / RECORD, json.dumps(asdict(changed)))

    def add_sampler(self, sampler: Sampler) -> None:
        """Record a sampling session."""
        write_atomic(self._sampler_file(sampler.id), json.dumps(asdict(sampler)))

    def sampler(self, sampler_id: str) -> Sampler:
        """A sampling session. Raises HttpError 404."""
        file = self._sampler_file(sampler_id)
        if not file.is_file():
            raise HttpError(404, f"there is no sampler {sampler_id}")
        return Sampler(**json.loads(file.read_bytes()))

    def _live(self, run: str, kind: str, name: str) -> Checkpoint | None:
        """The checkpoint, unless there is none; one that has expired is deleted."""
        with self._lock:
            file = self._run_folder(run) / kind / _plain(name) / RECORD
            if not file.is_file():
                return None
            record = json.loads(file.read_bytes())
            found = Checkpoint(*(record[each.name] for each in fields(Checkpoint)))
            if found.expires is not None and found.expires <= self._clock():
                self.delete(found)
                return None
            return found

    def _place(self, checkpoint: Checkpoint) -> Path:
        return self._run_folder(checkpoint.run) / checkpoint.kind / _plain(checkpoint.name)

    def _run_folder(self, run_id: str) -> Path:
        return self._folder / "runs" / _plain(run_id)

    def _sampler_file(self, sampler_id: str) -> Path:
        return self._folder / "samplers" / f"{_plain(sampler_id)}.json"


def _delete_left(partial: Path) -> None:
    """Delete what a kill left; what is so young may be another server's, which is writing it."""
    with suppress(FileNotFoundError):
        if time.time() - partial.stat().st_mtime < YOUNG:
            return
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def _plain(name: str) -> str:
    if not re.fullmatch(PLAIN, name):
        raise HttpError(404, f"{name!r} is no name that this server gives")
    return name


def _checked(ttl: int) -> int:
    if not SHORTEST_TTL <= ttl <= LONGEST_TTL:
        raise UserError(f"ttl_seconds: found {ttl}, expected an hour to ten years")
    return ttl
