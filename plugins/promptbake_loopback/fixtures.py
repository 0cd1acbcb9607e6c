"""A pytest plugin: `pytest_plugins = ["promptbake_tinker.loopback.fixture"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from promptbake_tinker.loopback.server import Loopback


@pytest.fixture
def tinker_loopback(tmp_path: Path) -> Iterator[Loopback]:
    """A server of the tiny model, of one test's own. Sets nothing in the environment."""
    with Loopback("tiny", state=tmp_path / "loopback") as server:
        yield server
