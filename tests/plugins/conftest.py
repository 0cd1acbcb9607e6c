"""Fixtures of the plugins' tests: keys, fake endpoints, their clients and their model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_openai import KEY, ChatEndpoint, torch_twin
from fake_openai import serving as serving_chat
from fake_tinker import serving as serving_tinker

from promptbake_loopback.tinker import TinkerLoopback
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
    with serving_chat() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerLoopback]:
    """A Tinker service of the tiny model, with its key in the environment."""
    with serving_tinker(tmp_path_factory.mktemp("tinker")) as server:
        yield server
