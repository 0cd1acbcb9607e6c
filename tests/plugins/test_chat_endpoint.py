"""The double of a chat service, as the real `openai` client and plain HTTP see it."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import httpx
import openai
import pytest
from chat_client import HELLO, ask, plain, said

from promptbake_loopback.openai import ChatEndpoint, Prices, identity

pytest_plugins = ["promptbake_loopback.fixtures"]


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
