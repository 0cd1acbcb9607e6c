"""The provider `openai` in parts; tests/end_to_end/test_endpoints.py tests it as a whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from fake_openai import KEY, ChatEndpoint
from generation_jobs import job, requests

from promptbake import (
    BakeError,
    Conversation,
    DataProvider,
    GenerationRequest,
    Message,
    Rejection,
)
from promptbake.testing import DataProviderSuite, RecordingBudget
from promptbake_loopback.openai import identity
from promptbake_openai import Prices, max_usage, openai_provider
from promptbake_openai.answers import InvalidResponseError
from promptbake_openai.chat import swap_roles
from promptbake_openai.completions import (
    ChatCompletion,
    parse_completion,
    rejection_reason,
    strip_thinking,
)

pytestmark = pytest.mark.usefixtures("openai_key")
NEUTRAL = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
PLAIN = {"model", "messages", "temperature", "max_tokens", "seed"}


class TestOpenAIProvider(DataProviderSuite):
    paid = True
    several_turns = True
    keys = ("OPENAI_API_KEY",)
    options: ClassVar[dict[str, Any]] = {"prices": {"prompt": 0.15, "completion": 0.6}}
    endpoint_options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def provider(self) -> Iterator[DataProvider]:
        with ChatEndpoint(key=KEY, **self.endpoint_options) as endpoint:
            yield self.create(endpoint)

    @pytest.fixture
    def broken(self) -> Iterator[DataProvider]:
        with ChatEndpoint(key=KEY, faults=1.0, kinds=("500",)) as endpoint:
            yield self.create(endpoint)

    def create(self, endpoint: ChatEndpoint) -> DataProvider:
        options = {"model": "tiny-chat", "max_retries": 0} | self.options
        return openai_provider(base_url=endpoint.url, **options)


class TestOpenAIProviderWithoutPrices(TestOpenAIProvider):
    options: ClassVar[dict[str, Any]] = {}


class TestOpenAIProviderThatDropsTruncatedResponses(TestOpenAIProvider):
    options: ClassVar[dict[str, Any]] = {"drop_truncated": True, "concurrency": 1}
    endpoint_options: ClassVar[dict[str, Any]] = {
        "answer": lambda request: f"Arr, {identity(request)[:9]}!"
    }


def generate(
    endpoint: ChatEndpoint, wanted: tuple[GenerationRequest, ...], of_job: Any = (), **options: Any
) -> dict[str, Conversation | Rejection]:
    """The results by id, of a job with fields `of_job` and a provider with options."""
    provider = openai_provider(model="tiny-chat", base_url=endpoint.url, **options)
    assert tuple(provider.queries()) == ()
    return {result.id: result for result in provider.generate(job(wanted, **dict(of_job)))}


def test_a_conversation_has_the_query_the_response_and_its_metadata() -> None:
    with ChatEndpoint(key=KEY, answer=lambda _: "Hm. Yes.") as endpoint:
        prices = {"prompt": 1.0, "completion": 2.0}
        result = generate(endpoint, requests("a"), prices=prices)["a@1.0"]
    assert isinstance(result, Conversation)
    meta = dict(result.meta)
    assert 0 <= float(meta.pop("seconds") or 0) < 10
    expected_meta = {
        "model": "tiny-chat",
        "provider": None,
        "temperature": 1.0,
        "tokens": 2,
        "dollars": pytest.approx((2 + 1 + 2 * 3 + 2 * 2) / 1e6),
        "request_id": "chatcmpl-0",
        "category": "small talk",
    }
    messages = (Message("user", "a"), Message("assistant", "Hm. Yes."))
    assert replace(result, meta=meta) == Conversation("a@1.0", "a", messages, True, expected_meta)


def test_a_request_has_the_prompt_the_temperature_the_limit_a_seed_and_the_body() -> None:
    bodies: list[dict[str, Any]] = []

    def record(request: dict[str, Any]) -> str:
        bodies.append(request)
        return f"Hm, {request['messages'][-1]['content']}."

    with ChatEndpoint(key=KEY, answer=record) as endpoint:
        for seed in (0, 0, 1):
            generate(endpoint, requests("a", "b"), of_job={"seed": seed}, body={"top_p": 0.9})
    first = min(bodies[:2], key=lambda body: body["messages"][-1]["content"])
    assert {name: value for name, value in first.items() if name != "seed"} == {
        "model": "tiny-chat",
        "messages": [{"role": "system", "content": "Say hm."}, {"role": "user", "content": "a"}],
        "temperature": 1.0,
        "max_tokens": 32,
        **NEUTRAL,
        "top_p": 0.9,
    }
    seeds = [{body["seed"] for body in bodies[start : start + 2]} for start in (0, 2, 4)]
    assert len(seeds[0]) == 2  # one for each request
    assert seeds[0] == seeds[1]
    assert not seeds[0] & seeds[2]


def test_completed_requests_are_not_sent_and_identical_responses_are_rejected() -> None:
    stored = {
        "completed_ids": frozenset({"a@1.0"}),
        "seen_responses": frozenset({("b", "Hm."), ("a", "Hm.")}),
    }
    with ChatEndpoint(key=KEY, answer=lambda _: "Hm.") as endpoint:
        results = generate(endpoint, requests("a", "b", "c"), of_job=stored)
        assert endpoint.meter.requests == 2
    assert set(results) == {"b@1.0", "c@1.0"}
    assert results["b@1.0"] == Rejection("b@1.0", "b", "it is identical to an earlier one", "Hm.")
    assert isinstance(results["c@1.0"], Conversation)  # the same response, to another query


def test_concurrency_is_bounded_and_no_thread_is_left() -> None:
    before = threading.active_count()
    with ChatEndpoint(0.02, key=KEY) as endpoint:
        running = threading.active_count()
        generate(endpoint, requests(*"abcdefghijkl"), concurrency=3)
        assert endpoint.meter.most_in_flight == 3
        deadline = time.monotonic() + 5
        while threading.active_count() > running and time.monotonic() < deadline:
            time.sleep(0.01)
        assert before < threading.active_count() <= running


def test_the_note_counts_rejections_retries_and_dollars() -> None:
    notes: list[str] = []
    texts = {"a": "", "b": "Hm."}
    with ChatEndpoint(
        key=KEY, answer=lambda request: texts[request["messages"][-1]["content"]]
    ) as endpoint:
        endpoint.inject_fault("500")
        endpoint.inject_fault("html")
        prices = {"prompt": 1.0, "completion": 100.0}
        generate(endpoint, requests("a", "b"), of_job={"note": notes.append}, prices=prices)
    for part in ("0 in flight", "1 rejected", "4 retried", "$0.000"):  # the empty one twice
        assert part in notes[-1]


@pytest.mark.parametrize("by_environment", [False, True])
def test_addresses_are_a_list_or_in_the_environment(
    by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatEndpoint(key=KEY) as one, ChatEndpoint(key=KEY) as other:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{one.url}, {other.url}" if by_environment else "")
        base_url = None if by_environment else [one.url, other.url]
        provider = openai_provider(model="tiny-chat", base_url=base_url)
        assert len(list(provider.generate(job(requests(*"abcd"))))) == 4
        assert (one.meter.answered, other.meter.answered) == (2, 2)


def test_prices_are_two_numbers() -> None:
    with pytest.raises(BakeError, match="expected prompt and completion; found prompt"):
        openai_provider(model="m", prices={"prompt": 1.0})


def test_a_cost_estimate_is_the_worst_case_of_what_is_not_completed() -> None:
    prices = {"prompt": 1.0, "completion": 2.0}
    unfinished = job(requests("a", "b"), completed_ids=frozenset({"a@1.0"}))
    estimate = openai_provider(model="m", prices=prices).estimate_cost(unfinished)
    usage = max_usage(unfinished.requests[1], unfinished)
    assert (usage.calls, usage.output_tokens) == (1, 32)
    assert usage.input_tokens >= len("Say hm.b") / 2
    assert estimate.usage == Prices(1.0, 2.0, "").apply(usage)
    assert estimate.priced
    assert not openai_provider(model="m").estimate_cost(unfinished).priced


def test_a_cost_estimate_of_several_turns_reads_every_turn_again() -> None:
    (request,) = requests("a")
    one, three = (max_usage(request, job((request,), turns=turns)) for turns in (1, 3))
    assert (three.calls, three.output_tokens) == (5, 5 * one.output_tokens)
    assert three.input_tokens == 5 * one.input_tokens + (0 + 1 + 2 + 3 + 4) * 32


def test_the_completed_turns_of_a_failed_conversation_are_committed() -> None:
    budget = RecordingBudget()
    with ChatEndpoint(key=KEY) as endpoint:
        endpoint.inject_fault("no_choices", times=20, after=1)
        with pytest.raises(BakeError, match="responded with no completion"):
            generate(endpoint, requests("a"), of_job={"budget": budget, "turns": 2})
        output_tokens = endpoint.meter.completion_tokens
    (committed,) = (reservation.committed for reservation in budget.reservations)
    assert committed is not None
    assert (committed.calls, committed.output_tokens) == (1, output_tokens)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Yes", "Yes"),
        ("<think>a</think>Yes", "Yes"),
        ("<think>\na\n\nb\n</think>\n\n Yes \n", "Yes"),
        ("<think>a</think>Yes<think>b</think>, no", "Yes, no"),
        ("a</think>\nYes", "Yes"),
        ("<think></think>", ""),
        ("<think>a", None),
        ("<think>a</think>Yes<think>b", None),
    ],
)
def test_think_blocks_are_removed(text: str, kept: str | None) -> None:
    assert strip_thinking(text) == kept


@pytest.mark.parametrize(
    ("text", "finish_reason", "drop_truncated", "reason"),
    [
        ("Yes", "stop", True, None),
        ("Yes", "content_filter", False, "a filter refused it"),
        ("Yes", "length", True, "it was cut by data.max_tokens"),
        ("Yes", "length", False, None),
        ("", "stop", False, "the response is empty"),
        ("<think>a", "stop", False, "a think block is not closed"),
        ("", "length", False, "data.max_tokens cut it before its reasoning ended"),
        ("<think>a", "length", False, "data.max_tokens cut it before its reasoning ended"),
    ],
)
def test_why_a_completion_is_not_kept(
    text: str, finish_reason: str, drop_truncated: bool, reason: str | None
) -> None:
    completion = ChatCompletion(text, finish_reason, "", 0, 0, None, None)
    assert rejection_reason(completion, drop_truncated) == reason


@pytest.mark.parametrize(
    "body",
    [
        "<html>Bad gateway</html>",
        "",
        "[]",
        '"yes"',
        "null",
        "{}",
        '{"choices": [',
        '{"choices": null}',
        '{"choices": []}',
        '{"choices": ["yes"]}',
        '{"error": {"message": "no"}}',
        '{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
        '{"choices": [{"message": null}]}',
        *(
            f'{{"usage": {{"{key}": {value}}}, "choices": [{{"message": {{"content": "a"}}}}]}}'
            for key in ("cost", "prompt_tokens")
            for value in ("NaN", "-1", "1e999", '"1"', "[]")
        ),
        *(
            f'{{"choices": [{{"message": {{"content": {content}}}}}]}}'
            for content in ('[{"type": "image_url"}]', "3", '"\\ud800"', "[" * 5000, "9" * 5000)
        ),
    ],
)
def test_a_body_without_a_completion_is_invalid(body: str) -> None:
    with pytest.raises(InvalidResponseError):
        parse_completion(body)


def test_a_completion_may_lack_its_usage() -> None:
    body = '{"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}'
    assert parse_completion(body) == ChatCompletion("Yes", "stop", "", 0, 0, None, None)
    parts = body.replace('"Yes"', '[{"type": "text", "text": "Y"}, {"type": "text", "text": "es"}]')
    assert parse_completion(parts).text == "Yes"


def test_the_simulated_user_sees_the_roles_swapped() -> None:
    turns = [Message("user", "a"), Message("assistant", "b")]
    assert swap_roles(turns) == [Message("assistant", "a"), Message("user", "b")]
