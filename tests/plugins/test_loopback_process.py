"""What both fake servers have in common: as processes, side by side, their faults."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from promptbake_loopback.openai import KEY, ChatEndpoint
from promptbake_loopback.tinker import TinkerLoopback

CHAT = {"model": "a", "messages": [{"role": "user", "content": "Hello"}]}


@contextmanager
def process(*arguments: str) -> Iterator[httpx.Client]:
    """`python -m promptbake_loopback`, which must end when its standard input does."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "promptbake_loopback", *arguments, "--exit-with-parent"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        url = running.stdout.readline().strip().removesuffix("/v1")
        with httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {KEY}"}, verify=False
        ) as client:
            yield client
        running.stdin.close()  # as when the parent has died
        assert running.wait(timeout=20) == 0


def test_a_chat_endpoint_in_a_process_of_its_own() -> None:
    with process("openai", "--latency", "0.01", "--model", "a") as client:
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["a"]
        assert client.post("/loopback/faults", json={"kind": "500"}).status_code == 200
        refused = client.post("/loopback/faults", json={"kind": "504"})
        assert (refused.status_code, "no fault is called 504" in refused.text) == (400, True)
        assert client.post("/loopback/faults", json={"what": "500"}).status_code == 400
        assert client.post("/loopback/faults", content=b"[").status_code == 400
        answers = [client.post("/v1/chat/completions", json=CHAT) for _ in range(2)]
        meter = client.get("/loopback/meter").json()
    assert [answer.status_code for answer in answers] == [500, 200]
    assert (meter["requests"], meter["answered"], meter["injected"]) == (2, 1, [[0, "500"]])


def test_a_tinker_service_in_a_process_of_its_own(tmp_path: Path) -> None:
    with process("tinker", "--state", str(tmp_path)) as client:
        fault = {"kind": "503", "on": "healthz"}
        assert client.post("/loopback/faults", json=fault).status_code == 200
        client.headers["X-API-Key"] = "tml-any"
        asked = [client.get("/api/v1/healthz") for _ in range(2)]
        assert [answer.status_code for answer in asked] == [503, 200]
        meter = client.get("/loopback/meter").json()
        assert (meter["requests"], meter["sample_calls"]) == ({"healthz": 2}, 0)
        assert client.get("/api/v1/nothing").json()["detail"].startswith("Invalid URL (GET /api/")
        client.headers["X-API-Key"] = "sk-1"
        assert client.get("/api/v1/healthz").status_code == 401


def test_several_servers_in_one_process_end_at_once_with_their_clients_connected(
    tmp_path: Path,
) -> None:
    endpoints = [ChatEndpoint(models=("a",), key=str(number)) for number in range(3)]
    with httpx.Client() as client, TinkerLoopback(state=tmp_path) as service:
        begin = time.monotonic()
        for number, endpoint in enumerate(endpoints):
            with endpoint:
                key = {"Authorization": f"Bearer {number}"}
                assert client.get(f"{endpoint.url}/models", headers=key).status_code == 200
                assert client.get(f"{service.url}/loopback/meter").status_code == 200
            with pytest.raises(httpx.ConnectError):
                client.get(f"{endpoint.url}/models")
        assert time.monotonic() - begin < 2.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "flood"}, "no fault is called flood; choose from: .*dropped"),
        ({"kind": "429", "times": 0}, "times"),
        ({"kind": "429", "after": -1}, "after"),
        ({"kind": "slow", "seconds": -1.0}, "seconds"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused(
    tmp_path: Path, arguments: dict[str, Any], says: str
) -> None:
    server = TinkerLoopback(state=tmp_path)
    with pytest.raises(ValueError, match=says):
        server.inject_fault(**arguments)


def test_they_import_no_torch_until_they_serve() -> None:
    code = (
        "import sys, json, promptbake_loopback.openai, promptbake_loopback.tinker;"
        "print(json.dumps(sorted({'torch', 'tinker', 'transformers'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
