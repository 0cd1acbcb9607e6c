"""Looking for a plugin's keys in what others may read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

LEAST = 8  # characters of a value that cannot be somewhere by chance


@contextmanager
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every logger speak, as under somebody's `logging.basicConfig(level=0)`."""
    with caplog.at_level(logging.NOTSET + 1):
        yield


def check_unseen(names: Iterable[str], places: Mapping[str, str | bytes]) -> None:
    """Refuse the value of one of these environment variables in one of the places."""
    for name in names:
        value = os.environ.get(name, "")
        assert len(value) >= LEAST, (
            f"{name} is not set: set it by monkeypatch.setenv, in your fixture, to a made-up value "
            f"of {LEAST} characters or more, so that it can be looked for"
        )
        for place, content in places.items():
            text = content if isinstance(content, bytes) else content.encode(errors="replace")
            assert value.encode() not in text, (
                f"the value of {name} is in {place}: look at what is written of the options, of "
                "the environment and of the requests' headers"
            )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
