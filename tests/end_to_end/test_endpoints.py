"""The providers `openai` and `openrouter`, by command: requests, failures and keys."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from command import promptbake
from endpoint_run import (
    HELD_OUT,
    IN_FLIGHT,
    KEY,
    QUERIES,
    RUN,
    TEMPERATURES,
    WANTED,
    all_arrived,
    arguments,
    ask,
    conversations,
    finish,
    holders,
    start,
    stored,
)
from run_folder import ids, read_lines, refused

from promptbake_loopback.openai import TRANSIENT, ChatEndpoint

pytestmark = pytest.mark.usefixtures("prompt", "endpoint_inputs")


def until(true: Any) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_all_that_is_asked_for_arrives_whatever_happens_on_the_way() -> None:
    with ChatEndpoint(
        0.01, seed=3, faults=0.3, kinds=TRANSIENT, retry_after=0.1, key=KEY
    ) as endpoint:
        said = finish(endpoint)
        meter = endpoint.meter
    all_arrived()
    assert set(meter.faults) == TRANSIENT
    assert len(meter.injected) > 0.2 * WANTED
    assert (meter.answered, meter.repeats, meter.abandoned) == (WANTED, 0, 0)
    assert len(read_lines(RUN / "held_out.jsonl")) == HELD_OUT
    assert "left out" not in said
    assert KEY not in said
    assert not holders(KEY)


def test_killed_at_ten_moments_it_asks_for_nothing_again_that_is_stored() -> None:
    chance, in_flight, moments = Random(7), 8, 10
    asked: list[tuple[str, float]] = []

    def note(request: Mapping[str, Any]) -> str:
        asked.append((request["messages"][-1]["content"], request["temperature"]))
        return f"Blue, {len(asked)}."

    with ChatEndpoint(0.04, key=KEY, answer=note) as endpoint:
        for _ in range(moments):
            before = {(line["messages"][0]["content"], line["meta"]["temperature"])
                      for line in whole_conversations()}  # fmt: skip
            first, goal = len(asked), stored() + chance.randrange(1, 14)
            process = start(endpoint, f"concurrency={in_flight}")
            process.wait_for(lambda goal=goal: stored() >= goal)  # type: ignore[misc]
            time.sleep(chance.random() * 0.04)
            process.kill_when(lambda: True)
            until(lambda: endpoint.meter.in_flight == 0)
            assert not before & set(asked[first:])
        assert stored() < WANTED
        finish(endpoint)
        meter = endpoint.meter
    all_arrived()
    wanted = {(line["id"], line["meta"]["temperature"]) for line in conversations()}
    assert Counter(heat for _, heat in wanted) == {
        heat: QUERIES - HELD_OUT + HELD_OUT * (heat == 1.0) for heat in TEMPERATURES
    }
    assert meter.answered <= WANTED + moments * in_flight
    assert len(set(asked)) == WANTED


def whole_conversations() -> list[dict[str, Any]]:
    """What is stored after a kill, which may leave half a line at the end."""
    files = [RUN / name for name in ("data.jsonl", "held_out.jsonl")]
    texts = [file.read_bytes().rpartition(b"\n")[0] for file in files if file.exists()]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def test_ctrl_c_leaves_a_run_that_resumes() -> None:
    with ChatEndpoint(0.05, key=KEY) as endpoint:
        process = start(endpoint)
        process.signal_when(lambda: stored() > 0, signal.SIGINT)
        result = process.result()
        assert result.code == 130
        assert result.err.splitlines()[-1] == "stopped; run the same command to resume"
        assert 0 < len(ids(RUN)) < WANTED
        finish(endpoint)
        assert endpoint.meter.answered <= WANTED + IN_FLIGHT
    all_arrived()
    assert KEY not in result.err
    assert not holders(KEY)


@pytest.mark.parametrize(
    ("kind", "says", "advice"),
    [
        ("401", "OPENAI_API_KEY: {url} refuses it: Incorrect API key", ""),
        ("402", "{url}: is out of credit: Insufficient credits", "add some; responses"),
        ("403", "{url}: permission denied: Your input was flagged", ""),
        ("404", "{url}: has no model 'tiny-chat': The model does not exist", "set another"),
    ],
)
def test_what_will_not_pass_stops_at_once(kind: str, says: str, advice: str) -> None:
    in_flight = 4
    with ChatEndpoint(0.02, key=KEY) as endpoint:
        endpoint.inject_fault(kind, times=WANTED, after=10)
        began = time.monotonic()
        result = ask(endpoint, f"concurrency={in_flight}")
        assert time.monotonic() - began < 3
        url, meter = endpoint.url, endpoint.meter
    assert result.complaint.startswith(says.format(url=url))
    assert advice in result.complaint
    assert len([line for line in result.err.splitlines() if line.startswith("promptbake: ")]) == 1
    assert meter.faults[kind] <= in_flight
    assert meter.requests <= 10 + in_flight
    assert len(ids(RUN)) == meter.answered == 10  # what was answered is kept
    assert KEY not in result.err + result.out
    assert not holders(KEY)


def test_a_wrong_key_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "sk-wrong-77aa"
    monkeypatch.setenv("OPENAI_API_KEY", wrong)
    with ChatEndpoint(key=KEY) as endpoint:
        result = ask(endpoint)
        assert endpoint.meter.requests <= IN_FLIGHT
    assert result.complaint.startswith("OPENAI_API_KEY: ")
    assert wrong not in result.err + result.out
    assert not holders(wrong)


def test_no_key_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        if value is not None:
            monkeypatch.setenv("OPENAI_API_KEY", value)
        line = arguments("http://127.0.0.1:9/v1")
        said = refused(*line[:2], *line[4:])
        assert said.startswith("OPENAI_API_KEY: is not set; export it")


def test_an_error_that_quotes_the_key_does_not_tell_it() -> None:
    def quote(request: Mapping[str, Any]) -> str:
        raise ValueError(f"Incorrect API key provided: {KEY}.")

    with ChatEndpoint(key=KEY, answer=quote) as endpoint:
        result = start(endpoint).result()  # in this process the endpoint's own traceback is seen
    assert result.code == 2
    assert "Incorrect API key provided" in result.err
    assert KEY not in result.err
    assert not holders(KEY)


def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (f"{KEY}\n", f"{KEY}\u2014"):  # as copied from a file or a page
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with ChatEndpoint(key=KEY) as endpoint:
            result = ask(endpoint, "max_retries=0", "concurrency=1")
        assert result.complaint.startswith("OPENAI_API_KEY: ")
        assert KEY not in result.err + result.out
        assert not holders(KEY)


def test_two_addresses_share_the_requests() -> None:
    with ChatEndpoint(0.005, key=KEY) as one, ChatEndpoint(0.005, key=KEY) as other:
        result = promptbake(*arguments(f"{one.url}, {other.url}"))
        assert result.code == 0, result.err
        answered = [one.meter.answered, other.meter.answered]
    all_arrived()
    assert sum(answered) == WANTED
    assert max(answered) <= 1.1 * min(answered)


def test_a_429_holds_all_requests_back() -> None:
    number, pause, in_flight = 30, 0.5, 8
    script = [None] * number + ["429"]
    with ChatEndpoint(0.02, key=KEY, script=script, retry_after=pause) as endpoint:
        finish(endpoint, f"concurrency={in_flight}", "data.temperatures=[0.5, 1.0]")
        arrivals = endpoint.meter.arrivals
    told = arrivals[number]
    # Some were on the way already; without a gate it would be a hundred.
    assert sum(told < when < told + pause for when in arrivals) <= 2 * in_flight
    assert max(after - before for before, after in pairwise(arrivals)) > 0.3


def test_a_dead_endpoint_is_given_up_with_what_was_seen() -> None:
    with ChatEndpoint(key=KEY) as endpoint:
        url = endpoint.url
    began = time.monotonic()
    result = promptbake(*arguments(url))
    assert time.monotonic() - began < 5  # without a retry
    assert f"{url}: cannot be reached: " in result.complaint
    assert "refused" in result.complaint
    assert "run the same command to resume" in result.complaint


def test_an_address_that_is_nearly_right_is_told_from_a_missing_model() -> None:
    with ChatEndpoint(key=KEY) as endpoint:
        for url, says in {
            endpoint.origin: f"{endpoint.url} answers: set base_url to it",
            f"{endpoint.origin}/v2": "set base_url to the address up to /v1",
            endpoint.url.replace("http:", "https:"): "it speaks http and not https",
        }.items():
            began = time.monotonic()
            complaint = promptbake(*arguments(url, "concurrency=4")).complaint
            assert time.monotonic() - began < 5
            assert complaint.startswith(url)
            assert says in complaint
            assert "has no model" not in complaint


def test_an_endpoint_that_never_answers_is_given_up() -> None:
    with ChatEndpoint(60.0, key=KEY) as endpoint:
        began = time.monotonic()
        result = ask(endpoint, "max_retries=1", "concurrency=5", "timeout=0.2")
        assert time.monotonic() - began < 10
        assert endpoint.meter.requests <= 2 * 10
    assert "no response in 0.2 seconds" in result.complaint


def test_pages_instead_of_answers_are_given_up() -> None:
    with ChatEndpoint(key=KEY, faults=1.0, kinds=("html",)) as endpoint:
        result = ask(endpoint, "concurrency=5")
        assert endpoint.meter.requests < 100
    assert "Bad gateway" in result.complaint


def test_openrouter_without_a_key_says_who_else_could_answer() -> None:
    line = arguments("http://127.0.0.1:9/v1", provider="openrouter")
    complaint = refused(*line[:2], *line[4:])
    assert complaint.startswith("OPENROUTER_API_KEY: is not set")
    assert "data.provider=self" in complaint
    assert "data.provider=openai" in complaint


def test_openrouter_refuses_a_model_that_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    with ChatEndpoint(key=KEY, models=("maker/large", "maker/small")) as endpoint:
        line = arguments(endpoint.url, "model=maker/smal", provider="openrouter")
        complaint = refused(*line[:2], *line[4:])
        assert endpoint.meter.requests == 0
    assert "options.data_providers.openrouter.model" in complaint
    assert "'maker/smal'" in complaint
    assert "maker/small" in complaint.replace("'maker/smal'", "")


def test_openrouter_refuses_a_context_that_is_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    with ChatEndpoint(key=KEY, context_length=64) as endpoint:
        line = arguments(endpoint.url, "data.max_tokens=60", provider="openrouter")
        complaint = refused(*line[:2], *line[4:])
        assert endpoint.meter.requests == 0
    assert "the context of tiny-chat holds 64" in complaint
    assert "lower data.max_tokens" in complaint
