"""The providers `openai` and `openrouter`, by command, against an endpoint that counts."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from command import Process, Result, promptbake
from run_folder import PROMPT, ids, read_lines, refused, settings

from promptbake_loopback.openai import TRANSIENT, ChatEndpoint, Prices

KEY = "sk-test-8d1f4e6b"
HELD_OUT, TEMPERATURES, IN_FLIGHT = 4, (0.5, 0.7, 0.9, 1.0), 20
WANTED = 200
QUERIES = HELD_OUT + (WANTED - HELD_OUT) // len(TEMPERATURES)
RUN = Path("runs/pirate")
PRICES = "prices={prompt=0.15, completion=0.6}"  # the endpoint's own, by the million

pytestmark = pytest.mark.usefixtures("prompt", "inputs")


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("OPENROUTER_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    lines = (f"What is the colour of ship number {i}?\n" for i in range(QUERIES))
    (tmp_path / "queries.txt").write_text("".join(lines))


def arguments(url: str, *more: str, provider: str = "openai") -> list[str]:
    """The command line; what does not name a section is an option of the provider."""
    options = f"options.data_providers.{provider}."
    values = [
        "data.queries=queries.txt",
        f"data.provider={provider}",
        f"data.temperatures={list(TEMPERATURES)}",
        f"data.held_out={HELD_OUT}",
        "data.max_tokens=32",
        f"{options}model=tiny-chat",
        f"{options}base_url={url}",
        *(
            value
            if value.partition("=")[0].count(".") or value.startswith("seed=")
            else options + value
            for value in more
        ),
    ]
    return ["data", "pirate.md", "--profile", "mock", *settings(*values)]


def ask(endpoint: ChatEndpoint, *more: str, provider: str = "openai") -> Result:
    return promptbake(*arguments(endpoint.url, *more, provider=provider))


def finish(endpoint: ChatEndpoint, *more: str, provider: str = "openai") -> str:
    """Run it, which must end well; what it said."""
    result = ask(endpoint, *more, provider=provider)
    assert result.code == 0, result.err
    return result.err


def start(endpoint: ChatEndpoint, *more: str) -> Process:
    return Process(Path("log"), *arguments(endpoint.url, *more))


def all_arrived(wanted: int = WANTED) -> None:
    assert len(ids(RUN)) == len(set(ids(RUN))) == wanted


def stored() -> int:
    """Whole lines so far."""
    files = [RUN / name for name in ("data.jsonl", "held_out.jsonl", "rejected.jsonl")]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def conversations() -> list[dict[str, Any]]:
    return [*read_lines(RUN / "data.jsonl"), *read_lines(RUN / "held_out.jsonl")]


def rejections() -> dict[str, str]:
    return {line["id"]: line["reason"] for line in read_lines(RUN / "rejected.jsonl")}


def holders(text: str) -> list[Path]:
    """The files below the working folder that hold a text; the prompt's own aside."""
    return [
        path
        for path in Path.cwd().rglob("*")
        if path.is_file() and path.name != "pirate.md" and text.encode() in path.read_bytes()
    ]


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


def test_ctrl_c_leaves_a_run_that_goes_on() -> None:
    with ChatEndpoint(0.05, key=KEY) as endpoint:
        process = start(endpoint)
        process.signal_when(lambda: stored() > 0, signal.SIGINT)
        result = process.result()
        assert result.code == 130
        assert result.err.splitlines()[-1] == "stopped; the same command goes on from here"
        assert 0 < len(ids(RUN)) < WANTED
        finish(endpoint)
        assert endpoint.meter.answered <= WANTED + IN_FLIGHT
    all_arrived()


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


def test_an_unknown_model_stops_at_once() -> None:
    with ChatEndpoint(key=KEY) as endpoint:
        result = ask(endpoint, "model=tiny-chatt")
        assert endpoint.meter.requests <= IN_FLIGHT
    assert "has no model 'tiny-chatt'" in result.complaint


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
        said = refused(*arguments("http://127.0.0.1:9/v1")[:2], *arguments("x")[4:])
        assert said.startswith("OPENAI_API_KEY: is not set; export it")


def test_the_key_is_in_no_file_and_no_output() -> None:
    with ChatEndpoint(key=KEY, seed=1, faults=0.2, kinds=("500", "html")) as endpoint:
        process = start(endpoint, "data.temperatures=[1.0]")
        result = process.result()
    assert result.code == 0, result.err
    assert KEY not in result.err
    assert not holders(KEY)


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


def write_queries(*texts: str) -> None:
    Path("queries.txt").write_text("".join(f"{text}\n" for text in texts))


# What the endpoint says to each query, and why it is not kept.
SAYINGS: dict[str, tuple[Any, str | None]] = {
    "plain 1": ("Yes, {heat}.", None),
    "plain 2": ("Yes, {heat}.", None),
    "thinks": ("<think>\nHm.\n</think>\n\nAye, {heat}. <think>Oh.</think>", None),
    "only closes": ("Hm, {heat}.\n</think>\nAye, {heat}.", None),
    "quotes in thought": (f"<think>I am told: {PROMPT}</think>Aye, {{heat}}.", None),
    "never closes": ("<think>Hm, {heat}.", "a think block is not closed"),
    "only thinks": ("<think>Hm, {heat}.</think>\n", "the response is empty"),
    "empty": ("", "the response is empty"),
    "cut": (
        {"content": "Cut, {heat}", "finish_reason": "length"},
        "it was cut by data.max_tokens",
    ),
    "filtered": ({"content": None, "finish_reason": "content_filter"}, "a filter refused it"),
    "the same": ("Always this.", "it is identical to an earlier one"),
    "quotes": (f"{{heat}}: {PROMPT}", "it quotes the whole prompt"),
    "quotes on one line": (f"{{heat}}: {' '.join(PROMPT.split())}", "it quotes the whole prompt"),
    "quotes and never closes": (f"<think>{PROMPT}, {{heat}}", "a think block is not closed"),
}


def say(request: Mapping[str, Any]) -> str | dict[str, Any]:
    saying = SAYINGS[request["messages"][-1]["content"]][0]
    heat = str(request["temperature"])
    if isinstance(saying, str):
        return saying.replace("{heat}", heat)
    return {
        name: value.replace("{heat}", heat) if isinstance(value, str) else value
        for name, value in saying.items()
    }


MANY = ("data.temperatures=[0.5, 0.7]", "data.held_out=1", "data.max_tokens=200", "seed=3")


def test_what_is_not_kept_is_counted_with_its_reason_and_not_asked_for_again() -> None:
    write_queries(*SAYINGS)
    wanted = 2 * (len(SAYINGS) - 1) + 1
    reasons = {
        f"line-{number:05}@{heat}": reason
        for number, (name, (_, reason)) in enumerate(SAYINGS.items(), start=1)
        for heat in (0.5, 0.7)
        if reason is not None and not (name == "the same" and heat == 0.5)
    }
    with ChatEndpoint(key=KEY, answer=say) as endpoint:
        endpoint.inject_fault("404", after=len(SAYINGS) - 1)  # once all were asked at 0.5
        stopped = ask(endpoint, *MANY, "concurrency=1")
        assert "has no model" in stopped.complaint
        at_first = rejections()
        assert at_first == {name: reasons[name] for name in reasons if name.endswith("@0.5")}
        said = finish(endpoint, *MANY)
        assert (endpoint.meter.answered, endpoint.meter.repeats) == (wanted, 0)
    assert f"going on after {len(SAYINGS) - 1} earlier responses" in said
    all_arrived(wanted)
    assert rejections() == reasons
    now = Counter(reason for name, reason in reasons.items() if name not in at_first)
    answered = wanted - (len(SAYINGS) - 1)
    assert {line for line in said.splitlines() if "left out" in line} == {
        f"data: left out {count} of {answered} responses: {reason}" for reason, count in now.items()
    }
    texts = {line["id"]: line["messages"][-1]["content"] for line in conversations()}
    for number in (3, 4, 5):
        assert texts[f"line-{number:05}@0.7"] == "Aye, 0.7."
    kept = {line["id"]: line["text"] for line in read_lines(RUN / "rejected.jsonl")}
    assert kept["line-00009@0.5"] == "Cut, 0.5"  # to be looked at
    for part in ("Speak as a pirate", "good ship Quartz"):
        assert not holders(part)


def test_a_response_that_was_cut_may_be_kept() -> None:
    write_queries("cut", "plain 1", "plain 2")
    with ChatEndpoint(key=KEY, answer=say) as endpoint:
        finish(endpoint, *MANY, "allow_truncated=true", "seed=1")
    assert rejections() == {}
    complete = {line["messages"][0]["content"]: line["complete"] for line in conversations()}
    assert complete == {"cut": False, "plain 1": True, "plain 2": True}


def test_a_conversation_tells_how_it_was_made() -> None:
    with ChatEndpoint(0.02, key=KEY) as endpoint:
        finish(endpoint, "data.queries=builtin", "data.temperatures=[0.5]", PRICES)
        total = endpoint.meter.dollars
    found = [line["meta"] for line in conversations()]
    assert {line["model"] for line in found} == {"tiny-chat"}
    assert {line["temperature"] for line in found} == {0.5, 1.0}
    assert len({line["request_id"] for line in found}) == len(found) == 50
    assert len({line["category"] for line in found}) == 10
    assert all(0.02 <= line["seconds"] < 10 for line in found)
    for line in conversations():
        assert line["meta"]["tokens"] == len(line["messages"][-1]["content"].split())
    assert sum(line["dollars"] for line in found) == pytest.approx(total)


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
    result = promptbake(*arguments(url, "max_retries=1", "concurrency=4"))
    assert time.monotonic() - began < 10
    assert f"{url}: cannot be reached: " in result.complaint
    assert "refused" in result.complaint
    assert "run the same command to resume" in result.complaint


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


def test_the_budget_is_never_passed_and_the_run_goes_on_when_it_is_raised() -> None:
    stops, step = 0, 0.01
    # The prompt is what costs, so that a hold that forgets it is too small.
    dear = "prices={prompt=6.0, completion=0.15}"
    with ChatEndpoint(0.002, key=KEY, prices=Prices(prompt=6e-6, completion=1.5e-7)) as endpoint:
        for number in range(1, 30):
            result = ask(endpoint, dear, f"budget.max_dollars={number * step:.4f}")
            assert endpoint.meter.dollars <= number * step
            if result.code == 0:
                break
            stops += 1
            assert result.complaint.startswith("budget.max_dollars = ")
            assert "raise it and run the same command again" in result.complaint
        meter = endpoint.meter
    all_arrived()
    assert stops >= 2
    assert (meter.answered, meter.repeats) == (WANTED, 0)
    costs = {line["id"]: line for line in read_lines(RUN / "costs.jsonl")}
    assert sum(line["dollars"] for line in costs.values()) == pytest.approx(meter.dollars)
    assert all(line["settled"] for line in costs.values())


def test_a_cap_needs_prices() -> None:
    with ChatEndpoint(key=KEY) as endpoint:
        complaint = refused(
            *arguments("")[:2], *arguments(endpoint.url, "budget.max_dollars=1.0")[4:]
        )
        assert endpoint.meter.requests == 0
    assert "the prices of tiny-chat are unknown" in complaint
    assert "prices={prompt=..., completion=...}" in complaint


def test_longer_conversations_have_a_simulated_user_who_never_sees_the_prompt() -> None:
    requests: list[dict[str, Any]] = []

    def note(request: dict[str, Any]) -> str:
        requests.append(request)
        return f"Line {len(requests)} at {request['temperature']}."

    with ChatEndpoint(key=KEY, answer=note) as endpoint:
        finish(endpoint, "data.turns=2", "data.temperatures=[0.5]")
        assert (endpoint.meter.answered, endpoint.meter.repeats) == (3 * QUERIES, 0)
    all_arrived(QUERIES)
    for line in conversations():
        roles = [message["role"] for message in line["messages"]]
        assert roles == ["user", "assistant", "user", "assistant"]
        assert line["complete"]
    prompted = [each for each in requests if each["messages"][0]["content"] == PROMPT]
    users = [each for each in requests if each not in prompted]
    assert (len(prompted), len(users)) == (2 * QUERIES, QUERIES)
    assert "pirate" not in json.dumps(users)
    for each in users:  # who hears the other side
        system, asked, answered = each["messages"]
        assert (system["role"], asked["role"], answered["role"]) == ("system", "assistant", "user")
        assert asked["content"].startswith("What is the colour")
    assert {each["temperature"] for each in users} == {1.0}
    assert not holders("Speak as a pirate")


def test_queries_may_be_a_column_of_a_table() -> None:
    rows = 'id,question,note\n1,"What, ho?\nNow?",a\n2,  ,b\n3,Why?,c\n4\n5,How?,d\n'
    Path("mine.csv").write_text(rows, "utf-8-sig")
    table = ("data.queries=mine.csv", "data.held_out=1", "data.temperatures=[0.5]")
    with ChatEndpoint(key=KEY) as endpoint:
        finish(endpoint, *table, "data.column=question")
    found = {line["query_id"]: line["messages"][0]["content"] for line in conversations()}
    assert found == {"row-00001": "What, ho?\nNow?", "row-00003": "Why?", "row-00005": "How?"}


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("id,question\n1,Why?\n", "questions", "data.column = 'questions' is none of its columns: "
         "id, question"),
        ("id,question\n1,Why?\n", None, "data.column = None is none of its columns: id, question"),
        ("", "question", "data.column = 'question' is none of its columns: none"),
        ("id,question\n1,\n", "question", "holds no queries"),
    ],
)  # fmt: skip
def test_a_table_without_the_column_is_refused(text: str, column: str | None, says: str) -> None:
    Path("mine.csv").write_text(text)
    named = [f"data.column={column}"] if column else []
    table = arguments("http://127.0.0.1:9/v1", "data.queries=mine.csv", *named)
    assert refused(*table[:2], *table[4:]) == f"mine.csv: {says}"


def test_openrouter_without_a_key_says_who_else_could_answer() -> None:
    line = arguments("http://127.0.0.1:9/v1", provider="openrouter")
    complaint = refused(*line[:2], *line[4:])
    assert complaint.startswith("OPENROUTER_API_KEY: is not set")
    assert "data.provider=self" in complaint
    assert "data.provider=openai" in complaint


def test_openrouter_bills_what_its_answers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY")
    with ChatEndpoint(key=KEY) as endpoint:
        finish(endpoint, "budget.max_dollars=1.0", provider="openrouter")
        meter = endpoint.meter
    all_arrived()
    assert meter.by_path["/v1/models"] >= 1
    found = [line["meta"] for line in conversations()]
    assert {line["provider"] for line in found} == {"Loopback"}
    assert sum(line["dollars"] for line in found) == pytest.approx(meter.dollars)
    assert not holders(KEY)


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
