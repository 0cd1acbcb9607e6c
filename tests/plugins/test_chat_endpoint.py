"""The double of a chat service, as the real `openai` client and plain HTTP see it."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from promptbake_loopback.openai import (
    KEY,
    KINDS,
    LASTING,
    TRANSIENT,
    ChatEndpoint,
    Prices,
    identity,
)

pytest_plugins = ["promptbake_loopback.fixtures"]

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
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


@pytest.fixture(scope="module")
def root() -> Iterator[openai.OpenAI]:
    # One for all: each reads the system's certificates anew.
    with openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def client(root: openai.OpenAI, chat_endpoint: ChatEndpoint) -> openai.OpenAI:
    return root.with_options(base_url=chat_endpoint.url)


@pytest.fixture
def web(chat_endpoint: ChatEndpoint) -> Iterator[httpx.Client]:
    with plain(chat_endpoint) as client:
        yield client


def plain(endpoint: ChatEndpoint) -> httpx.Client:
    # Without the system's certificates, which take longer to read than all requests.
    return httpx.Client(
        base_url=endpoint.url, headers={"Authorization": f"Bearer {KEY}"}, verify=False
    )


def ask(client: openai.OpenAI, text: str = "Hello", **options: Any) -> ChatCompletion:
    return client.chat.completions.create(
        model="tiny-chat", messages=[{"role": "user", "content": text}], **options
    )


def said(completion: ChatCompletion) -> str | None:
    return completion.choices[0].message.content


def test_a_completion_has_openais_form(web: httpx.Client) -> None:
    answer = web.post("/chat/completions", json={"model": "tiny-chat", "messages": HELLO})
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    text = found["choices"][0]["message"]["content"]
    words = len(text.split())
    assert 8 <= words <= 24
    found.pop("created")
    assert found == {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "model": "tiny-chat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 2 + 1 + 2 * 3,
            "completion_tokens": words,
            "total_tokens": 9 + words,
        },
    }


def test_the_text_depends_on_the_request_alone(root: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "temperature": 0.5, "seed": 1, "model": "a"}
    others: list[dict[str, Any]] = [
        {"messages": HELLO[1:]},
        {"messages": [*HELLO, {"role": "user", "content": "Hello"}]},
        {"temperature": 0.6},
        {"seed": 2},
        {"model": "b"},
    ]
    texts = []
    for _ in range(2):
        with ChatEndpoint(models=("a", "b")) as endpoint:
            create = root.with_options(base_url=endpoint.url).chat.completions.create
            texts.append([said(create(**(asked | other))) for other in [{}, *others]])
            assert endpoint.meter.answers[identity(asked)] == 1
            assert said(create(**asked)) == texts[0][0]
            assert (endpoint.meter.answers[identity(asked)], endpoint.meter.repeats) == (2, 1)
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == len(texts[0])


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_the_text(client: openai.OpenAI, name: str) -> None:
    whole = said(ask(client))
    limit: dict[str, Any] = {name: 3}
    cut = ask(client, **limit)
    assert cut.choices[0].finish_reason == "length"
    assert whole is not None
    assert said(cut) == " ".join(whole.split()[:3])
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 3


def test_a_test_can_give_its_own_answers(root: openai.OpenAI) -> None:
    answers: dict[str, Any] = {
        "think": "<think>\nHm.\n</think>\n\nYes",
        "empty": "",
        "none": {"content": None, "refusal": "No."},
        "filter": {"content": "I", "finish_reason": "content_filter"},
        "reasoning": {"content": "Yes", "reasoning": "one two three"},
    }
    with ChatEndpoint(
        answer=lambda request: answers[request["messages"][-1]["content"]]
    ) as endpoint:
        client = root.with_options(base_url=endpoint.url)
        found = {name: ask(client, name) for name in answers}
        assert said(ask(client, "think", max_tokens=2)) == "<think>\nHm."
        assert endpoint.meter.answered == 6
        with pytest.raises(openai.BadRequestError, match="KeyError"):
            ask(client, "unforeseen")
        assert (endpoint.meter.answered, endpoint.meter.refused) == (6, {"400": 1})
    assert [said(found[name]) for name in answers] == [answers["think"], "", None, "I", "Yes"]
    assert found["none"].choices[0].message.refusal == "No."
    assert found["filter"].choices[0].finish_reason == "content_filter"
    assert found["reasoning"].usage is not None
    assert found["reasoning"].usage.completion_tokens == 4


@pytest.mark.parametrize("extra", [{"usage": {"include": True}}, {"provider": {"order": ["x"]}}])
def test_openrouter_tells_the_cost(root: openai.OpenAI, extra: dict[str, Any]) -> None:
    with ChatEndpoint(prices=Prices(prompt=0.25, completion=2.0), credit=3.0) as endpoint:
        client = root.with_options(base_url=endpoint.url)
        found = ask(client, extra_body=extra, max_tokens=1)
        assert found.usage is not None
        assert found.usage.model_extra == {"cost": 4 * 0.25 + 2.0}
        assert found.model_extra == {"provider": "Loopback"}
        assert endpoint.meter.dollars == 3.0
        with plain(endpoint) as web:
            account = web.get("/key").json()["data"]
        assert (account["usage"], account["limit_remaining"]) == (3.0, 0.0)
        with pytest.raises(openai.APIStatusError) as caught:  # the credit is spent
            ask(client)
        assert caught.value.status_code == 402
        assert endpoint.meter.refused == {"402": 1}


def test_openai_tells_no_cost(client: openai.OpenAI) -> None:
    found = ask(client)
    assert not found.model_extra
    assert found.usage is not None
    assert not found.usage.model_extra


def test_models(root: openai.OpenAI) -> None:
    with ChatEndpoint(models=("tiny-chat", "maker/large"), parameters=("seed",)) as endpoint:
        client = root.with_options(base_url=endpoint.url)
        models = client.models.list().data
        assert [model.id for model in models] == ["tiny-chat", "maker/large"]
        shown = client.models.retrieve("maker/large").model_extra
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")
        assert endpoint.meter.requests == 0
        assert endpoint.meter.by_path["/v1/models"] == 1
    assert shown is not None
    assert shown["context_length"] == 8192
    assert shown["supported_parameters"] == ["seed"]
    assert shown["pricing"] == {"prompt": "0.00000015", "completion": "0.0000006"}
    assert float(Decimal(shown["pricing"]["prompt"])) == Prices().prompt


def test_what_openai_refuses_is_refused(client: openai.OpenAI, chat_endpoint: ChatEndpoint) -> None:
    with pytest.raises(openai.AuthenticationError) as key:
        ask(client.with_options(api_key="sk-other"))
    assert key.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-other").models.list()
    with pytest.raises(openai.NotFoundError, match="`other` does not exist") as model:
        client.chat.completions.create(model="other", messages=[])
    assert (model.value.code, model.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="no logprobs"):
        client.completions.create(model="tiny-chat", prompt=[1])
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        client.embeddings.create(model="tiny-chat", input="Hello")
    meter = chat_endpoint.meter
    assert (meter.answered, meter.in_flight) == (0, 0)
    assert meter.refused == {"401": 1, "404": 2}


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
def test_a_bad_option_is_refused_by_name(web: httpx.Client, field: str, value: object) -> None:
    asked = {"model": "tiny-chat", "messages": HELLO, field: value}
    answer = web.post("/chat/completions", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


# A vocabulary of three: row t is about the token that follows ids[: t + 1].
ROWS = {
    0: [math.log(0.5), math.log(0.3), math.log(0.2)],
    1: [-math.inf, 0.0, -math.inf],
    2: [math.log(0.1), math.log(0.2), math.log(0.7)],
}


def rows(ids: list[int]) -> list[list[float]]:
    return [ROWS[token] for token in ids]


def test_vllm_scores_token_ids(root: openai.OpenAI) -> None:
    with ChatEndpoint(logprobs=rows, decode="abc".__getitem__) as endpoint:
        client = root.with_options(base_url=endpoint.url)
        found = client.completions.create(
            model="tiny-chat",
            prompt=[[0, 2, 2], [2, 1, 0]],
            max_tokens=2,
            extra_body={"prompt_logprobs": 1},
        )
        assert endpoint.meter.prompt_tokens == 6
    assert [choice.text for choice in found.choices] == ["cc", "aa"]
    scores = [(choice.model_extra or {})["prompt_logprobs"] for choice in found.choices]
    a, b, c = ({"decoded_token": letter} for letter in "abc")
    assert scores[0] == [
        None,
        {
            "2": {"logprob": math.log(0.2), "rank": 3, **c},
            "0": {"logprob": math.log(0.5), "rank": 1, **a},
        },
        {"2": {"logprob": math.log(0.7), "rank": 1, **c}},
    ]
    assert list(scores[0][1]) == ["2", "0"]  # the prompt's own token first
    assert scores[1][2] == {
        "0": {"logprob": -9999.0, "rank": 3, **a},  # as vLLM says minus infinity
        "1": {"logprob": 0.0, "rank": 1, **b},
    }
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (6, 4)


def test_vllm_scores_the_whole_vocabulary_where_it_may() -> None:
    with ChatEndpoint(logprobs=rows, max_logprobs=3) as endpoint, plain(endpoint) as web:
        asked = {"model": "tiny-chat", "prompt": [0, 1], "max_tokens": 1}
        found = web.post("/completions", json=asked).json()["choices"][0]
        assert found["prompt_logprobs"] is None
        for k in (-1, 3):
            answer = web.post("/completions", json={**asked, "prompt_logprobs": k})
            assert set(answer.json()["choices"][0]["prompt_logprobs"][1]) == {"0", "1", "2"}
        none = web.post("/completions", json={**asked, "prompt_logprobs": 0})
        assert set(none.json()["choices"][0]["prompt_logprobs"][1]) == {"1"}
        refused = web.post("/completions", json={**asked, "prompt_logprobs": 4})
        assert refused.status_code == 400
        assert "greater than max allowed: 3" in refused.json()["error"]["message"]
        wrong: list[object] = ["text", [], [[]], [-1]]
        for prompt in wrong:
            assert web.post("/completions", json={**asked, "prompt": prompt}).status_code == 400


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
