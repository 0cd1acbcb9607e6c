"""The faults, the pace and the end of the chat service's double, as its clients see them."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import openai
import pytest
from chat_client import HELLO, ask, plain, said

from promptbake_loopback.openai import KEY, KINDS, LASTING, TRANSIENT, ChatEndpoint

pytest_plugins = ["promptbake_loopback.fixtures"]

RAISED = {
    "401": openai.AuthenticationError,
    "402": openai.APIStatusError,
    "403": openai.PermissionDeniedError,
    "404": openai.NotFoundError,
    "429": openai.RateLimitError,
    "429-date": openai.RateLimitError,
    "429-quota": openai.RateLimitError,
    "500": openai.InternalServerError,
    "502": openai.InternalServerError,
    "503": openai.InternalServerError,
    "drop": openai.APIConnectionError,
    "reset": openai.APIConnectionError,
    "timeout": openai.APIConnectionError,
    "truncated": json.JSONDecodeError,  # none of the client's own
}


@pytest.mark.parametrize("kind", sorted(RAISED))
def test_a_fault_that_the_client_notices(root: openai.OpenAI, kind: str) -> None:
    with ChatEndpoint(slow=0.05) as endpoint:
        client = root.with_options(base_url=endpoint.url)
        endpoint.inject_fault(kind)
        with pytest.raises(RAISED[kind]) as caught:
            ask(client)
        if kind[0].isdigit():
            assert isinstance(caught.value, openai.APIStatusError)
            assert caught.value.status_code == int(kind[:3])
        only_a_fault(endpoint, kind)
        assert said(ask(client))
        assert endpoint.meter.answered == 1


@pytest.mark.parametrize("kind", ["html", "no_choices", "null_content", "error_body"])
def test_a_fault_that_the_client_takes_for_an_answer(
    client: openai.OpenAI, chat_endpoint: ChatEndpoint, kind: str
) -> None:
    chat_endpoint.inject_fault(kind)
    found: Any = ask(client)
    if kind == "html":
        assert isinstance(found, str)
    elif kind == "null_content":
        assert found.choices[0].message.content is None
    elif kind == "error_body":
        assert found.choices is None
        assert found.error["code"] == 502
    else:
        assert found.choices == []
    only_a_fault(chat_endpoint, kind)


def only_a_fault(endpoint: ChatEndpoint, kind: str) -> None:
    meter = endpoint.meter
    assert meter.injected == ((0, kind),)
    assert (meter.requests, meter.answered, meter.in_flight) == (1, 0, 0)
    assert (meter.prompt_tokens, meter.dollars, meter.answers) == (0, 0, {})


@pytest.mark.parametrize("kind", ["slow", "wrong_type"])
def test_a_fault_whose_answer_is_whole(root: openai.OpenAI, kind: str) -> None:
    with ChatEndpoint(slow=0.1) as endpoint, plain(endpoint) as web:
        endpoint.inject_fault(kind, times=2)
        begin = time.monotonic()
        assert said(ask(root.with_options(base_url=endpoint.url)))
        assert (time.monotonic() - begin >= 0.1) == (kind == "slow")
        answer = web.post("/chat/completions", json={"model": "tiny-chat", "messages": HELLO})
        assert (answer.headers["content-type"] == "text/plain") == (kind == "wrong_type")
        assert endpoint.meter.faults == {kind: 2}
        assert endpoint.meter.answered == 2


def test_every_fault_is_shown() -> None:
    assert {*RAISED, "html", "no_choices", "null_content", "error_body", "slow", "wrong_type"} == (
        KINDS
    )
    assert TRANSIENT | LASTING == KINDS


def test_a_429_says_when() -> None:
    kinds = ("429", "429-date", None)
    with ChatEndpoint(script=kinds, retry_after=0.25) as endpoint, plain(endpoint) as web:
        asked = {"model": "tiny-chat", "messages": HELLO}
        answers = [web.post("/chat/completions", json=asked) for _ in kinds]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "0.25"
    date = parsedate_to_datetime(answers[1].headers["retry-after"]).timestamp()
    assert 0.1 < date - time.time() <= 1.5
    assert "retry-after" not in answers[2].headers


def test_the_clients_own_retries_are_not_answers(root: openai.OpenAI) -> None:
    with ChatEndpoint(retry_after=0.05, script=("429", "429", None)) as endpoint:
        client = root.with_options(base_url=endpoint.url, max_retries=2)
        assert said(ask(client))
        meter = endpoint.meter
    assert (meter.requests, meter.answered, meter.repeats) == (3, 1, 0)
    assert all(b - a >= 0.05 for a, b in zip(meter.arrivals, meter.arrivals[1:], strict=False))


def test_a_client_that_does_not_wait_has_no_answer(root: openai.OpenAI) -> None:
    with ChatEndpoint(latency=10.0) as endpoint:
        with pytest.raises(openai.APITimeoutError):
            ask(root.with_options(base_url=endpoint.url, timeout=0.05))
        until(lambda: endpoint.meter.abandoned == 1)
        assert (endpoint.meter.answered, endpoint.meter.in_flight) == (0, 0)


def until(true: Any) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def mix(seed: int, **options: Any) -> tuple[tuple[int, str], ...]:
    with ChatEndpoint(seed=seed, faults=0.5, slow=0.0, **options) as endpoint:
        with plain(endpoint) as web:
            for _ in range(20):
                web.post("/chat/completions", json={"model": "tiny-chat", "messages": HELLO})
        return endpoint.meter.injected


def test_chance_is_reproducible() -> None:
    kinds = ("500", "429", "null_content")
    first = mix(1, kinds=kinds)
    assert first == mix(1, kinds=kinds[::-1])
    assert first != mix(2, kinds=kinds)
    assert 3 <= len(first) <= 17
    assert {kind for _, kind in first} <= set(kinds)


def test_orders_come_before_the_script() -> None:
    with ChatEndpoint(script=("500", None, "502")) as endpoint:
        endpoint.inject_fault("503", times=2, after=1)
        with plain(endpoint) as web:
            asked = {"model": "tiny-chat", "messages": HELLO}
            found = [web.post("/chat/completions", json=asked).status_code for _ in range(4)]
        assert found == [500, 503, 503, 200]


def test_a_fault_must_exist(chat_endpoint: ChatEndpoint) -> None:
    with pytest.raises(ValueError, match="504"):
        chat_endpoint.inject_fault("504")
    with pytest.raises(ValueError, match="504"):
        ChatEndpoint(script=("504",))
    with pytest.raises(ValueError, match="times is at least 1"):
        chat_endpoint.inject_fault("500", times=0)
    with pytest.raises(ValueError, match="share"):
        ChatEndpoint(faults=1.5)


def test_requests_in_flight_are_counted(root: openai.OpenAI) -> None:
    with ChatEndpoint(latency=0.05) as endpoint, ThreadPoolExecutor(5) as pool:
        client = root.with_options(base_url=endpoint.url)
        list(pool.map(lambda number: ask(client, f"Question {number}"), range(10)))
        meter = endpoint.meter
    assert (meter.answered, meter.most_in_flight, meter.in_flight) == (10, 5, 0)
    assert set(meter.answers.values()) == {1}
    assert sorted(meter.arrivals) == list(meter.arrivals)
    assert meter.arrivals[5] - meter.arrivals[0] >= 0.05


def connect(endpoint: ChatEndpoint) -> socket.socket:
    url = httpx.URL(endpoint.url)
    connection = socket.create_connection((url.host, url.port or 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def test_the_end_waits_for_no_answer() -> None:
    body = json.dumps({"model": "tiny-chat", "messages": HELLO}).encode()
    head = f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    with ChatEndpoint(latency=60.0) as endpoint:
        connection = connect(endpoint)
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}".encode() + body)
        until(lambda: endpoint.meter.in_flight == 1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 1.0
    with connection:
        assert connection.recv(4096) == b""
    assert (endpoint.meter.abandoned, endpoint.meter.answered) == (1, 0)
