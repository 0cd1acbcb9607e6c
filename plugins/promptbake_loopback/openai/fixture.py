"""A pytest plugin: `pytest_plugins = ["promptbake_openai.loopback.fixture"]`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from promptbake_openai.loopback.server import Endpoint


@pytest.fixture
def chat_endpoint() -> Iterator[Endpoint]:
    """An endpoint without latency, of one test's own. Sets nothing in the environment."""
    with Endpoint() as endpoint:
        yield endpoint
