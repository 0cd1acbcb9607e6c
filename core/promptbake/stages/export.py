"""Export a finished adapter in PEFT's format."""

from __future__ import annotations

import shutil
from pathlib import Path

from promptbake.distill.checkpoints import CARD
from promptbake.errors import BakeError
from promptbake.files import atomic_folder
from promptbake.runs.session import Session


def write(session: Session, target: Path, strength: float = 1.0) -> None:
    """Write the run's adapter to a folder, its change of the weights multiplied by `strength`.

    At strength 1, which was measured, its model card goes with it.

    Raises:
        BakeError: The folder exists.
    """
    if target.exists():
        raise BakeError(f"--to {target}: already exists; choose another")
    checkpoint = session.checkpoint
    with atomic_folder(target) as new:
        session.backend.export(session.base, checkpoint, new, strength=strength)
        if strength == 1 and not session.address and session.run.card.is_file():
            shutil.copyfile(session.run.card, new / CARD)
