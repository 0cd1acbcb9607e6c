"""The fake chat endpoint, where the tests of the clients would not notice a fault."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from promptbake_loopback.openai import KEY, KINDS, LASTING, TRANSIENT, ChatEndpoint, identity

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
ASKED = {"model": "tiny-chat", "messages": HELLO}
STATUSES = {kind: int(kind[:3]) for kind in KINDS if kind[0].isdigit()}
NO_ANSWER: dict[str, type[Exception]] = {
    "drop": httpx.RemoteProtocolError,
    "timeout": httpx.RemoteProtocolError,
    "reset": httpx.ReadError,
    "truncated": json.JSONDecodeError,
    "html": json.JSONDecodeError,
}
WRONG_BODIES: dict[str, Callable[[Any], bool]] = {
    "no_choices": lambda body: body["choices"] == [],
    "null_content": lambda body: body["choices"][0]["message"]["content"] is None,
    "error_body": lambda body: "choices" not in body and body["error"]["code"] == 502,
}
WHOLE = {"slow", "wrong_type"}


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with ChatEndpoint(slow=0.05, retry_after=0.25) as endpoint:
        yield endpoint


def ask(endpoint: ChatEndpoint, timeout: float = 5.0, **fields: object) -> httpx.Response:
    # Without the system's certificates, which take longer to read than all requests.
    return httpx.post(
        f"{endpoint.url}/chat/completions",
        json=ASKED | fields,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=timeout,
        verify=False,
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_fault_happens_and_is_no_answer(endpoint: ChatEndpoint, kind: str) -> None:
    endpoint.inject_fault(kind)
    begin = time.monotonic()
    if kind in NO_ANSWER:
        with pytest.raises(NO_ANSWER[kind]):
            ask(endpoint).json()
    else:
        answer = ask(endpoint)
        assert answer.status_code == STATUSES.get(kind, 200)
        assert kind not in WRONG_BODIES or WRONG_BODIES[kind](answer.json())
        assert ("text/plain" in answer.headers["content-type"]) == (kind == "wrong_type")
        wait = answer.headers.get("retry-after")
        assert (wait is not None) == (kind in ("429", "429-date"))
        if kind == "429-date":
            assert 0.1 < parsedate_to_datetime(str(wait)).timestamp() - time.time() <= 1.5
    assert (time.monotonic() - begin >= 0.05) or kind not in ("slow", "timeout")
    meter, whole = endpoint.meter, kind in WHOLE
    assert (meter.injected, meter.requests, meter.in_flight) == (((0, kind),), 1, 0)
    assert (meter.answered, bool(meter.completion_tokens), bool(meter.dollars)) == (whole,) * 3
    assert TRANSIENT | LASTING == KINDS == {*STATUSES, *NO_ANSWER, *WRONG_BODIES, *WHOLE}


def test_the_text_depends_on_the_request_alone_and_repeats_are_counted() -> None:
    others: list[dict[str, Any]] = [
        {},
        {"messages": HELLO[1:]},
        {"temperature": 0.6},
        {"seed": 2},
        {"model": "b"},
    ]
    texts = []
    for _ in range(2):
        with ChatEndpoint(models=("tiny-chat", "b")) as endpoint:
            found = [ask(endpoint, **other).json()["choices"][0] for other in [*others, {}]]
            assert (endpoint.meter.answers[identity(ASKED)], endpoint.meter.repeats) == (2, 1)
        texts.append([choice["message"]["content"] for choice in found])
    assert texts[0] == texts[1]
    assert texts[0][-1] == texts[0][0]
    assert len(set(texts[0])) == len(others)


def test_a_limit_cuts_the_text(endpoint: ChatEndpoint) -> None:
    whole, cut = (ask(endpoint, max_tokens=limit).json() for limit in (99, 3))
    (choice,) = cut["choices"]
    text = whole["choices"][0]["message"]["content"]
    assert choice["message"]["content"] == " ".join(text.split()[:3])
    assert (choice["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 3),
        ("temperature", "0"),
        ("seed", 0.5),
        ("n", 2),
        ("stream", True),
        ("max_tokens", 0),
        ("messages", []),
        ("messages", ["Hello"]),
        ("messages", [{"role": "user", "content": 1}]),
        ("model", None),
    ],
)
def test_a_bad_option_is_refused_by_name(endpoint: ChatEndpoint, field: str, value: object) -> None:
    answer = ask(endpoint, **{field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert endpoint.meter.refused == {"400": 1}


def test_chance_is_reproducible() -> None:
    def mix(seed: int, kinds: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
        with ChatEndpoint(seed=seed, faults=0.5, kinds=kinds) as endpoint:
            for _ in range(12):
                ask(endpoint)
            return endpoint.meter.injected

    first = mix(1, ("500", "429"))
    assert first == mix(1, ("429", "500")) != mix(2, ("500", "429"))
    assert 2 <= len(first) <= 10
    with pytest.raises(ValueError, match="504"):
        ChatEndpoint(script=("504",))
    with pytest.raises(ValueError, match="share"):
        ChatEndpoint(faults=1.5)


def test_a_client_that_hangs_up_has_no_answer_and_the_end_waits_for_none() -> None:
    with ChatEndpoint(latency=60.0) as endpoint:
        with pytest.raises(httpx.ReadTimeout):
            ask(endpoint, timeout=0.05)
        deadline = time.monotonic() + 5
        while not endpoint.meter.abandoned and time.monotonic() < deadline:
            time.sleep(0.002)
        meter, begin = endpoint.meter, time.monotonic()
    assert time.monotonic() - begin < 1.0
    assert (meter.abandoned, meter.answered, meter.in_flight) == (1, 0, 0)
