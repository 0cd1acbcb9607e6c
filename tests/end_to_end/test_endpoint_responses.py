"""The providers `openai` and `openrouter`, by command: queries, what is kept, and its cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command import promptbake
from endpoint_run import (
    KEY,
    PRICES,
    QUERIES,
    RUN,
    WANTED,
    all_arrived,
    arguments,
    ask,
    conversations,
    finish,
    holders,
    rejections,
)
from run_folder import PROMPT, read_lines, refused

from promptbake_loopback.openai import ChatEndpoint, Prices

BUILTIN = ("data.queries=builtin",)
pytestmark = pytest.mark.usefixtures("prompt", "endpoint_inputs")


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
    "cut": ({"content": "Cut, {heat}", "finish_reason": "length"}, None),
    "cut in thought": (
        {"content": "<think>Hm, {heat}", "finish_reason": "length"},
        "data.max_tokens cut it before its reasoning ended",
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


ASKS = dict.fromkeys(("never closes", "only thinks", "empty", "quotes and never closes"), 3) | {
    "cut in thought": 2
}
MANY = (
    "data.temperatures=[0.5, 0.7]",
    "data.held_out=1",
    "data.max_tokens=200",
    "data.min_kept=0",
    "seed=3",
)


def test_what_is_not_kept_is_counted_with_its_reason_and_asked_for_again_up_to_a_bound() -> None:
    write_queries(*SAYINGS)
    wanted = 2 * (len(SAYINGS) - 1) + 1
    reasons = {
        f"line-{number:05}@{heat}": reason
        for number, (name, (_, reason)) in enumerate(SAYINGS.items(), start=1)
        for heat in (0.5, 0.7)
        if reason is not None and not (name == "the same" and heat == 0.5)
    }
    with ChatEndpoint(key=KEY, answer=say) as endpoint:
        at_half = sum(ASKS.get(name, 1) for name in SAYINGS) - 1
        endpoint.inject_fault("404", after=at_half)  # once all were asked at 0.5
        stopped = ask(endpoint, *MANY, "concurrency=1")
        assert "has no model" in stopped.complaint
        at_first = rejections()
        assert at_first == {name: reasons[name] for name in reasons if name.endswith("@0.5")}
        said = finish(endpoint, *MANY)
        assert (endpoint.meter.answered, endpoint.meter.repeats) == (2 * at_half + 1, 0)
    assert f"resuming after {len(SAYINGS) - 1} earlier responses" in said
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
    assert kept["line-00006@0.5"] == "<think>Hm, 0.5."  # to be looked at
    for part in ("Speak as a pirate", "good ship Quartz"):
        assert not holders(part)


@pytest.mark.parametrize(
    ("drop", "kept"), [("false", {"cut": False}), ("true", {})], ids=["kept", "dropped"]
)
def test_a_response_that_was_cut_is_kept_as_incomplete_or_dropped(
    drop: str, kept: dict[str, bool]
) -> None:
    write_queries("cut", "plain 1", "plain 2")
    with ChatEndpoint(key=KEY, answer=say) as endpoint:
        finish(endpoint, *MANY, f"drop_truncated={drop}", "seed=1")
    assert set(rejections().values()) == (set() if kept else {"it was cut by data.max_tokens"})
    complete = {line["messages"][0]["content"]: line["complete"] for line in conversations()}
    assert complete == {"plain 1": True, "plain 2": True} | kept


def test_too_little_data_is_refused_with_the_reasons_and_goes_on_when_it_is_accepted() -> None:
    write_queries(*(f"Line {number}" for number in range(9)))
    heats = ("data.temperatures=[0.5, 0.7, 1.0]", "data.held_out=1", "seed=1")
    with ChatEndpoint(
        key=KEY, answer=lambda request: f"On {request['messages'][-1]['content']}."
    ) as endpoint:
        result = ask(endpoint, *heats)
        said = " ".join(result.err.split())
        assert "8 of 8 queries have the same response at every temperature (0.5, 0.7, 1)" in said
        assert "8 of 24 conversations to train on are left (left out: 16: it is identical" in said
        assert "data.max_tokens = 32" in result.complaint
        assert result.complaint.endswith("accept them by data.min_kept=0.33")
        requests = endpoint.meter.requests
        finish(endpoint, *heats, "data.min_kept=0.33")
        assert endpoint.meter.requests == requests


def test_responses_that_are_no_samples_of_the_teacher_are_named_by_the_bake() -> None:
    with ChatEndpoint(key=KEY) as endpoint:
        finish(endpoint, *BUILTIN, "data.temperatures=[1.0]")
        line = arguments(endpoint.url, *BUILTIN, "data.temperatures=[1.0]")
        baked = promptbake("bake", *line[1:], "--set", "train.epochs=1")
    assert baked.code == 0, baked.err
    assert "the responses at temperature 1 are no samples of the teacher" in baked.err
    record = json.loads((RUN / "run.json").read_text())["stages"]["bake"]
    assert record["sampling"]["1"]["nll"] > record["sampling"]["1"]["expected_nll"]
    assert record["tail"]["tail"] == "sampled"


def test_a_conversation_tells_how_it_was_made() -> None:
    with ChatEndpoint(0.02, key=KEY) as endpoint:
        finish(endpoint, *BUILTIN, "data.temperatures=[0.5]", PRICES)
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


def test_the_budget_is_never_passed_and_the_run_resumes_when_it_is_raised() -> None:
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
            assert "raise it and run the same command to resume" in result.complaint
        meter = endpoint.meter
    all_arrived()
    assert stops >= 2
    assert (meter.answered, meter.repeats) == (WANTED, 0)
    costs = {line["id"]: line for line in read_lines(RUN / "costs.jsonl")}
    assert sum(line["dollars"] for line in costs.values()) == pytest.approx(meter.dollars)
    assert all(line["committed"] for line in costs.values())


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
    rows = 'id,question,note\n1,"What, ho?\nNow?",a\n2,  ,b\n3,Why?,c\n4,,\n5,How?,d\n'
    Path("mine.csv").write_text(rows, "utf-8-sig")
    table = ("data.queries=mine.csv", "data.held_out=1", "data.temperatures=[0.5]")
    with ChatEndpoint(key=KEY) as endpoint:
        finish(endpoint, *table, "data.column=question")
    found = {line["query_id"]: line["messages"][0]["content"] for line in conversations()}
    assert found == {"row-00001": "What, ho?\nNow?", "row-00003": "Why?", "row-00005": "How?"}


COLUMN = "CSV: set data.column to one of:"


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        (
            "id,question\n1,Why?\n",
            "questions",
            f"{COLUMN} id, question; found 'questions' (did you mean question?)",
        ),
        ("id,question\n1,Why?\n", None, f"{COLUMN} id, question; found None"),
        ("", "question", f"{COLUMN} none; found 'question'"),
        ("id,question\n1,\n", "question", "holds no queries"),
    ],
)
def test_a_table_without_the_column_is_refused(text: str, column: str | None, says: str) -> None:
    Path("mine.csv").write_text(text)
    named = [f"data.column={column}"] if column else []
    table = arguments("http://127.0.0.1:9/v1", "data.queries=mine.csv", *named)
    assert refused(*table[:2], *table[4:]) == f"mine.csv: {says}"


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
