"""Weights on disk: training states, one at a time, and the record beside a finished adapter."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from promptbake.documents.text import read_bytes
from promptbake.documents.typed import parse_json, read_json
from promptbake.errors import BakeError
from promptbake.files import atomic_folder, digest_file, write_atomic, write_json
from promptbake.interfaces import Model, Trainer, TrainingState
from promptbake.types import Checkpoint

PREFIX = "step-"
CHECKPOINT = "promptbake.json"
CHECKSUMS = "sha256.json"  # of a state's files
CARD = "README.md"  # beside a finished adapter: the model card


def save(folder: Path, step: int, state: TrainingState) -> None:
    """Write the state after `step` steps, then delete the earlier ones."""
    with atomic_folder(folder / f"{PREFIX}{step:06}") as new:
        for name, content in state.items():
            write_atomic(new / name, content)
        write_json(new / CHECKSUMS, digests(new))
    for old in _states(folder)[:-1]:
        shutil.rmtree(old)


def restore(folder: Path, trainer: Trainer, say: Callable[[str], None]) -> int:
    """Load the latest state that is as it was written; the number of steps that were taken.

    A damaged one is named and deleted. 0 where there is none.
    """
    for state in reversed(_states(folder)):
        if damaged := _damaged(state):
            say(f"bake: {state} is damaged ({', '.join(damaged)}), so it is not resumed from")
            shutil.rmtree(state)
            continue
        trainer.load_state(state)
        return _step(state)
    return 0


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder, by its path there."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {file.relative_to(folder).as_posix(): digest_file(file) for file in files}


def differing(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """The names of the recorded files that are missing or not as they were."""
    return [
        name
        for name, digest in recorded.items()
        if not (folder / name).is_file() or digest_file(folder / name) != digest
    ]


def _damaged(state: Path) -> list[str]:
    try:
        recorded = read_json(dict[str, str], state / CHECKSUMS)
    except BakeError:
        recorded = None
    return differing(state, recorded) if isinstance(recorded, dict) else [CHECKSUMS]


def read_adapter(folder: Path, backend: str, base: Model) -> Checkpoint:
    """The checkpoint in an adapter's folder. Raises BakeError if it is none, or of another model.

    The address in it is the folder, unless the backend keeps the weights elsewhere, with a service.
    The folder may be anybody's: it leads to no other place on this machine.
    """
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            raise BakeError(f"{path}: is a symbolic link, which an adapter has none of")
    file = folder / CHECKPOINT
    if not file.exists():
        raise BakeError(
            f"{folder}: holds no adapter; run `promptbake bake` (or `make bake`) first, with the "
            "same prompt and the same --run"
        )
    checkpoint = parse_json(Checkpoint, read_bytes(file), f"{file}: is no record of an adapter")
    local = "://" not in checkpoint.uri or checkpoint.uri.startswith("file:")
    if checkpoint.uri and local:
        raise BakeError(
            f"{file}: its uri {checkpoint.uri!r} leads out of the folder, and is not followed; it "
            "must be empty, or a service's address"
        )
    if checkpoint.backend != backend:
        raise BakeError(
            f"{folder}: was baked by the backend {checkpoint.backend!r}, and train.backend is "
            f"{backend!r}; use the profile that it was baked with"
        )
    if checkpoint.base_digest != base.digest:
        if checkpoint.base_model == base.name:
            raise BakeError(
                f"{folder}: was baked when {base.name} had other weights, another tokenizer or "
                "another chat template; bake anew"
            )
        raise BakeError(
            f"{folder}: is an adapter of another model, {checkpoint.base_model}; the model is "
            f"{base.name}, so set model.name={checkpoint.base_model} or bake anew"
        )
    return replace(checkpoint, uri=checkpoint.uri or str(folder))


def identity(checkpoint: Checkpoint) -> str:
    """What tells an adapter from others: its files' digests, or its address with a service.

    The card is none of them: it says what was measured of the adapter.
    """
    folder = Path(checkpoint.uri)
    if not folder.is_dir():
        return checkpoint.uri
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != CARD]
    digests = [digest_file(file) for file in files]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*"), key=_step)


def _step(state: Path) -> int:
    return int(state.name.removeprefix(PREFIX))
