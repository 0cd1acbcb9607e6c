"""The provider `openai` piece by piece; tests/end_to_end/test_endpoints.py has it whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar

import httpx2
import pytest
from promptbake_openai.loopback import Endpoint, identity

from promptbake.costs import NoBudget, Usage
from promptbake.errors import BakeError
from promptbake.interfaces import DataProvider, GenerationJob, Model
from promptbake.testing import DataProviderSuite
from promptbake.types import Conversation, GenerationRequest, Message, Prompt, Query, Rejection
from promptbake_openai import answers, openai_provider
from promptbake_openai.answers import Answer, UnusableError
from promptbake_openai.gate import PAUSE, Gate, retry_after
from promptbake_openai.prices import Prices
from promptbake_openai.provider import at_most, swapped

KEY = "sk-test-27b0"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


class TestOpenAIProvider(DataProviderSuite):
    paid = True
    several_turns = True
    keys = ("OPENAI_API_KEY",)
    options: ClassVar[dict[str, Any]] = {"prices": {"prompt": 0.15, "completion": 0.6}}

    @pytest.fixture
    def provider(self) -> Iterator[DataProvider]:
        with Endpoint(key=KEY) as endpoint:
            yield self.made(endpoint)

    @pytest.fixture
    def broken(self) -> Iterator[DataProvider]:
        with Endpoint(key=KEY, faults=1.0, kinds=("500",)) as endpoint:
            yield self.made(endpoint)

    def made(self, endpoint: Endpoint) -> DataProvider:
        given = {"model": "tiny-chat", "allow_truncated": True, "max_retries": 0} | self.options
        return openai_provider(base_url=endpoint.url, **given)


class TestOpenAIProviderThatKnowsNoPrices(TestOpenAIProvider):
    options: ClassVar[dict[str, Any]] = {}


class TestOpenAIProviderThatLeavesOutWhatWasCut(TestOpenAIProvider):
    options: ClassVar[dict[str, Any]] = {"allow_truncated": False, "concurrency": 1}

    @pytest.fixture
    def provider(self) -> Iterator[DataProvider]:
        with Endpoint(key=KEY, answer=lambda asked: f"Arr, {identity(asked)[:9]}!") as endpoint:
            yield self.made(endpoint)


def no_model() -> Model:
    raise AssertionError("no model is needed")


def requests(*texts: str) -> tuple[GenerationRequest, ...]:
    return tuple(GenerationRequest(f"{text}@1.0", ask(text), 1.0) for text in texts)


def ask(text: str) -> Query:
    return Query(text, (Message("user", text),), "small talk")


def job(plan: Sequence[GenerationRequest], **options: Any) -> GenerationJob:
    given: dict[str, Any] = {"done": frozenset(), "max_tokens": 32, "seed": 0} | options
    return GenerationJob(
        Prompt("p", "Say hm."), tuple(plan), open_model=no_model, budget=NoBudget(), **given
    )


def made(
    endpoint: Endpoint,
    plan: Sequence[GenerationRequest],
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Conversation | Rejection]:
    provider = openai_provider(model="tiny-chat", base_url=endpoint.url, **(options or {}))
    assert tuple(provider.queries()) == ()
    return {each.id: each for each in provider.generate(job(plan, **more))}


def test_a_conversation_has_the_query_the_answer_and_how_it_came_to_be() -> None:
    with Endpoint(key=KEY, answer=lambda _: "Hm. Yes.") as endpoint:
        prices = {"prompt": 1.0, "completion": 2.0}
        found = made(endpoint, requests("a"), {"prices": prices})["a@1.0"]
    assert isinstance(found, Conversation)
    assert found.messages == (Message("user", "a"), Message("assistant", "Hm. Yes."))
    assert (found.query_id, found.complete) == ("a", True)
    meta = dict(found.meta)
    assert 0 <= float(meta.pop("seconds") or 0) < 10
    assert meta == {
        "model": "tiny-chat",
        "provider": None,
        "temperature": 1.0,
        "tokens": 2,
        "dollars": pytest.approx((2 + 1 + 2 * 3 + 2 * 2) / 1e6),
        "request_id": "chatcmpl-0",
        "category": "small talk",
    }


def test_a_request_has_the_prompt_the_temperature_the_limit_a_seed_and_the_body() -> None:
    seen: list[dict[str, Any]] = []

    def note(request: dict[str, Any]) -> str:
        seen.append(request)
        return f"Hm, {request['messages'][-1]['content']}."

    with Endpoint(key=KEY, answer=note) as endpoint:
        for seed in (0, 0, 1):
            made(endpoint, requests("a", "b"), {"body": {"top_p": 0.9}}, seed=seed)
    bodies = sorted(seen[:2], key=lambda each: each["messages"][-1]["content"])
    assert bodies[0]["messages"] == [
        {"role": "system", "content": "Say hm."},
        {"role": "user", "content": "a"},
    ]
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"], bodies[0]["top_p"]) == (1.0, 32, 0.9)
    seeds = [{each["seed"] for each in seen[first : first + 2]} for first in (0, 2, 4)]
    assert len(seeds[0]) == 2  # one for each request
    assert seeds[0] == seeds[1]
    assert not seeds[0] & seeds[2]


def test_what_is_stored_is_not_asked_for_and_not_taken_twice() -> None:
    with Endpoint(key=KEY, answer=lambda _: "Hm.") as endpoint:
        found = made(
            endpoint,
            requests("a", "b", "c"),
            done=frozenset({"a@1.0"}),
            seen=frozenset({("b", "Hm."), ("a", "Hm.")}),
        )
        assert endpoint.meter.requests == 2
    assert set(found) == {"b@1.0", "c@1.0"}
    assert found["b@1.0"] == Rejection("b@1.0", "b", "it is identical to an earlier one", "Hm.")
    assert isinstance(found["c@1.0"], Conversation)  # the same words, to another query


def test_no_more_are_in_flight_than_may_be() -> None:
    with Endpoint(0.02, key=KEY) as endpoint:
        made(endpoint, requests(*"abcdefghijkl"), {"concurrency": 3})
        assert endpoint.meter.most_in_flight == 3


def test_nothing_is_left_running() -> None:
    with Endpoint(0.01, key=KEY) as endpoint:
        before = threading.active_count()
        made(endpoint, requests(*"abcdef"))
        deadline = time.monotonic() + 5
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before


def test_the_note_tells_of_rejects_retries_and_dollars() -> None:
    notes: list[str] = []
    texts = {"a": "", "b": "Hm."}
    with Endpoint(key=KEY, answer=lambda each: texts[each["messages"][-1]["content"]]) as endpoint:
        endpoint.inject("500")
        endpoint.inject("html")
        prices = {"prompt": 1.0, "completion": 100.0}
        made(endpoint, requests("a", "b"), {"prices": prices}, note=notes.append)
    assert "0 in flight" in notes[-1]
    assert "1 rejected" in notes[-1]
    assert "2 retried" in notes[-1]
    assert "$0.000" in notes[-1]


def test_the_address_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint(key=KEY) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        provider = openai_provider(model="tiny-chat")
        assert len(list(provider.generate(job(requests("a"))))) == 1


def test_addresses_may_be_a_list() -> None:
    with Endpoint(key=KEY) as one, Endpoint(key=KEY) as other:
        provider = openai_provider(model="tiny-chat", base_url=[one.url, other.url])
        assert len(list(provider.generate(job(requests(*"abcd"))))) == 4
        assert (one.meter.answered, other.meter.answered) == (2, 2)


def test_prices_are_two_numbers() -> None:
    with pytest.raises(BakeError, match="expected prompt and completion; found prompt"):
        openai_provider(model="m", prices={"prompt": 1.0})


def test_a_quote_is_every_response_at_its_longest() -> None:
    prices = {"prompt": 1.0, "completion": 2.0}
    asked = job(requests("a", "b"), done=frozenset({"a@1.0"}))
    quote = openai_provider(model="m", prices=prices).estimate_cost(asked)
    most = at_most(asked.plan[1], asked)
    assert (most.calls, most.sampled) == (1, 32)
    assert most.input_tokens >= len("Say hm.b") / 2
    assert quote.usage == Prices(1.0, 2.0, "").priced(most)
    assert quote.priced
    assert not openai_provider(model="m").estimate_cost(asked).priced


def test_a_quote_of_longer_conversations_reads_every_turn_again() -> None:
    plan = requests("a")
    one, three = (at_most(plan[0], job(plan, turns=turns)) for turns in (1, 3))
    assert (three.calls, three.sampled) == (5, 5 * one.sampled)
    assert three.input_tokens == 5 * one.input_tokens + (0 + 1 + 2 + 3 + 4) * 32


def test_what_was_paid_for_in_a_conversation_that_failed_is_settled() -> None:
    settled: list[Usage] = []

    class Reservation:
        def commit(self, usage: Usage) -> None:
            settled.append(usage)

    class Budget:
        capped = False

        def reserve(self, what: str, usage: Usage) -> Reservation:
            return Reservation()

    asked = GenerationJob(
        Prompt("p", "Say hm."), requests("a"), frozenset(), 32, 0, no_model, Budget(), turns=2
    )
    with Endpoint(key=KEY) as endpoint:
        endpoint.inject("no_choices", times=20, after=1)
        provider = openai_provider(model="tiny-chat", base_url=endpoint.url)
        with pytest.raises(BakeError, match="answered with no choices"):
            list(provider.generate(asked))
        meter = endpoint.meter
    assert [usage.calls for usage in settled] == [1]
    assert settled[0].sampled == meter.completion_tokens


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
    assert answers.without_thinking(text) == kept


def answer(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(text, finish_reason, "", 0, 0, None, None)


def test_why_an_answer_is_not_kept() -> None:
    assert answers.rejects(answer("Yes"), allow_truncated=False) is None
    assert answers.rejects(answer("Yes", "content_filter"), True) == "a filter refused it"
    assert answers.rejects(answer("Yes", "length"), False) == "it was cut by data.max_tokens"
    assert answers.rejects(answer("Yes", "length"), True) is None
    assert answers.rejects(answer("", "length"), True) == "the response is empty"
    assert answers.rejects(answer("<think>a", "length"), True) == "a think block is not closed"


@pytest.mark.parametrize(
    "found",
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
    ],
)
def test_what_is_no_completion_is_unusable(found: str) -> None:
    with pytest.raises(UnusableError):
        answers.read(found)


def test_a_completion_without_usage_is_one() -> None:
    body = '{"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}'
    found = answers.read(body)
    assert found == Answer("Yes", "stop", "", 0, 0, None, None)


def test_the_other_side_sees_the_turns_swapped() -> None:
    turns = [Message("user", "a"), Message("assistant", "b")]
    assert swapped(turns) == [Message("assistant", "a"), Message("user", "b")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0.5", 0.5),
        ("20", 20.0),
        ("0", 0.0),
        ("-3", 0.0),
        (format_datetime(NOW + timedelta(seconds=7), usegmt=True), 7.0),
        (format_datetime(NOW - timedelta(seconds=7), usegmt=True), 0.0),
        ("Fri, 02 Jan 2026 03:04:15 -0000", 10.0),
        ("Fri, 02 Jan 2026 04:04:15 +0100", 10.0),
        ("", None),
        (None, None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Fri, 99 Jan 2026 03:04:15 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(
    ("status", "header", "pause"),
    [
        (429, "2", 2.0),
        (429, None, PAUSE),
        (429, "soon", PAUSE),
        (503, "3", 3.0),
        (503, None, 0.0),
        (500, "3", 0.0),
        (200, "3", 0.0),
    ],
)
def test_the_gate_closes_for_as_long_as_an_answer_says(
    status: int, header: str | None, pause: float
) -> None:
    clock = Clock()
    gate = Gate(clock, clock.sleep)
    gate.note(httpx2.Response(status, headers={"Retry-After": header} if header else {}))
    for _ in range(2):
        gate.pass_through(httpx2.Request("POST", "http://127.0.0.1/"))
    assert sum(clock.slept) == pytest.approx(pause)
    assert gate.closed == (pause > 0)


def test_a_shorter_pause_does_not_open_the_gate_early() -> None:
    clock = Clock()
    gate = Gate(clock, clock.sleep)
    for seconds in ("5", "1"):
        gate.note(httpx2.Response(429, headers={"Retry-After": seconds}))
    gate.pass_through(httpx2.Request("POST", "http://127.0.0.1/"))
    assert clock.now == 105.0
