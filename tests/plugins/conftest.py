"""Fixtures of the plugins' tests: keys, fake endpoints, their clients and their model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_openai import KEY, ChatEndpoint, serving, torch_twin

from promptbake_torch import TorchModel


@pytest.fixture
def openai_key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return KEY


@pytest.fixture(scope="session")
def twin() -> TorchModel:
    return torch_twin()


@pytest.fixture(scope="session")
def endpoint() -> Iterator[ChatEndpoint]:
    with serving() as endpoint:
        yield endpoint
