"""Fixtures of the plugins' tests: keys, fake endpoints, their clients and their model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import tinker
from chat_client import plain
from fake_openai import KEY, ChatEndpoint, serving, torch_twin
from tinker_client import ALPHA

from promptbake_loopback.openai import KEY as LOOPBACK_KEY
from promptbake_loopback.tinker import KEY as TINKER_KEY
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
    with serving() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def root() -> Iterator[openai.OpenAI]:
    # One for all: each reads the system's certificates anew.
    with openai.OpenAI(
        base_url="http://127.0.0.1:1/v1", api_key=LOOPBACK_KEY, max_retries=0
    ) as client:
        yield client


@pytest.fixture
def client(root: openai.OpenAI, chat_endpoint: ChatEndpoint) -> openai.OpenAI:
    return root.with_options(base_url=chat_endpoint.url)


@pytest.fixture
def web(chat_endpoint: ChatEndpoint) -> Iterator[httpx.Client]:
    with plain(chat_endpoint) as client:
        yield client


@pytest.fixture
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_TELEMETRY", "0")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loopback")


@pytest.fixture(scope="module")
def server(state: Path) -> Iterator[TinkerLoopback]:
    with TinkerLoopback("tiny", state=state, alpha=ALPHA) as running:
        yield running


@pytest.fixture
def service(server: TinkerLoopback) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=server.url, api_key=TINKER_KEY) as client:
        yield client
