"""Weights on disk: training states, one at a time, and the record beside a finished adapter."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

from promptbake.documents.text import read_bytes
from promptbake.documents.typed import parse_json
from promptbake.errors import BakeError
from promptbake.files import atomic_folder, digest_file, write_atomic
from promptbake.interfaces import Model, Trainer, TrainingState
from promptbake.types import Checkpoint

PREFIX = "step-"
CHECKPOINT = "promptbake.json"


def save(folder: Path, step: int, state: TrainingState) -> None:
    """Write the state after `step` steps, then delete the earlier ones."""
    with atomic_folder(folder / f"{PREFIX}{step:06}") as new:
        for name, content in state.items():
            write_atomic(new / name, content)
    for old in _states(folder)[:-1]:
        shutil.rmtree(old)


def restore(folder: Path, trainer: Trainer) -> int:
    """Load the latest state; the number of steps that were taken, 0 where there is none."""
    states = _states(folder)
    if not states:
        return 0
    trainer.load_state(states[-1])
    return _step(states[-1])


def read_adapter(folder: Path, backend: str, base: Model) -> Checkpoint:
    """The checkpoint in an adapter's folder. Raises BakeError if it is none, or of another model.

    The address in it is the folder, unless the backend keeps the weights elsewhere.
    """
    file = folder / CHECKPOINT
    if not file.exists():
        raise BakeError(
            f"{folder}: holds no adapter; run `promptbake bake` (or `make bake`) first, with the "
            "same prompt and the same --run"
        )
    checkpoint = parse_json(Checkpoint, read_bytes(file), f"{file}: is no record of an adapter")
    if checkpoint.backend != backend:
        raise BakeError(
            f"{folder}: was baked by the backend {checkpoint.backend!r}, and train.backend is "
            f"{backend!r}; use the profile that it was baked with"
        )
    if checkpoint.base_digest != base.digest:
        raise BakeError(
            f"{folder}: is an adapter of another model, {checkpoint.base_model}; the model is "
            f"{base.name}, so set model.name={checkpoint.base_model} or bake anew"
        )
    return replace(checkpoint, uri=checkpoint.uri or str(folder))


def identity(checkpoint: Checkpoint) -> str:
    """What tells an adapter from others: its files' digests, or its address with a service."""
    folder = Path(checkpoint.uri)
    if not folder.is_dir():
        return checkpoint.uri
    digests = [digest_file(file) for file in sorted(folder.iterdir()) if file.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*"), key=_step)


def _step(state: Path) -> int:
    return int(state.name.removeprefix(PREFIX))
