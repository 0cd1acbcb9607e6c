"""A finished adapter, brought home in PEFT's format."""

from __future__ import annotations

from pathlib import Path

from promptbake.errors import BakeError
from promptbake.files import atomic_folder
from promptbake.runs.session import Session


def write(session: Session, target: Path) -> None:
    """Write the run's adapter to a folder. Raises BakeError where there is something already."""
    if target.exists():
        raise BakeError(f"--to {target}: is there already; give another folder")
    checkpoint = session.checkpoint
    with atomic_folder(target) as new:
        session.backend.export(session.base, checkpoint, new)
