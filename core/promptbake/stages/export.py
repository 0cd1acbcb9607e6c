"""Export a finished adapter in PEFT's format."""

from __future__ import annotations

from pathlib import Path

from promptbake.errors import BakeError
from promptbake.files import atomic_folder
from promptbake.runs.session import Session


def write(session: Session, target: Path, strength: float = 1.0) -> None:
    """Write the run's adapter to a folder, its change of the weights multiplied by `strength`.

    Raises:
        BakeError: The folder exists.
    """
    if target.exists():
        raise BakeError(f"--to {target}: already exists; choose another")
    checkpoint = session.checkpoint
    with atomic_folder(target) as new:
        session.backend.export(session.base, checkpoint, new, strength=strength)
