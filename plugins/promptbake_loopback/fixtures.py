"""A pytest plugin: `pytest_plugins = ["promptbake_loopback.fixtures"]`.

Each server is one test's own. Nothing is set in the environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from promptbake_loopback.openai import ChatEndpoint
from promptbake_loopback.tinker import TinkerLoopback


@pytest.fixture
def tinker_loopback(tmp_path: Path) -> Iterator[TinkerLoopback]:
    """A Tinker service of the tiny model."""
    with TinkerLoopback("tiny", state=tmp_path / "loopback") as server:
        yield server


@pytest.fixture
def chat_endpoint() -> Iterator[ChatEndpoint]:
    """A chat endpoint without latency."""
    with ChatEndpoint() as endpoint:
        yield endpoint
