"""What a suite was at when a plugin failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def noted(note: str) -> Iterator[None]:
    """Add a note to an error that comes out of the block; pytest shows it below the error."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise
