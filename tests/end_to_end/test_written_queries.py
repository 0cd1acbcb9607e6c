"""`data.queries = "generate"`: queries that the endpoint's model writes for the prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Result, promptbake
from run_folder import PROMPT, read_lines, settings

from promptbake_loopback.openai import ChatEndpoint


def author(request: dict[str, Any]) -> str:
    """Writes twenty lines to an order, among them repeated ones; answers anything else."""
    order = request["messages"][-1]["content"]
    if "part " not in order:
        return f"Arr: {order[::-1]}"
    part = int(order.rpartition("part ")[2].partition(":")[0])
    lines = [f"- topic {i % 4} | What is number {(20 * part + i % 17) % 60}?" for i in range(18)]
    return "\n".join(["Here they are:", *lines, "topic 9 | What is the SAME?"])


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatEndpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-loopback")
    with ChatEndpoint(answer=author) as endpoint:
        yield endpoint


def data(endpoint: ChatEndpoint, prompt: Path, *more: str) -> Result:
    chosen = settings(
        "data.provider=openai",
        "data.queries=generate",
        "data.n_queries=30",
        "data.held_out=5",
        "options.data_providers.openai.model=tiny-chat",
        "options.data_providers.openai.same_model=true",
        f"options.data_providers.openai.base_url={endpoint.url}",
        *more,
    )
    return promptbake("data", prompt, "--profile", "mock", *chosen)


def test_queries_are_written_once_and_differ(endpoint: ChatEndpoint, prompt: Path) -> None:
    done = data(endpoint, prompt)
    assert done.code == 0, done.err
    line = "30 queries written for this prompt; left out 1 repeated and 0 that tell the prompt"
    assert line in done.err
    run = prompt.parent / "runs" / "pirate"
    lines = read_lines(run / "queries.jsonl")[1:]
    assert len({line["text"] for line in lines}) == len(lines) == 30
    assert {line["category"] for line in lines} >= {"topic 0", "topic 3"}
    assert len(read_lines(run / "data.jsonl")) == 25
    assert len(read_lines(run / "held_out.jsonl")) == 5
    requests = endpoint.meter.requests
    again = data(endpoint, prompt)
    assert "complete already" in again.err
    assert endpoint.meter.requests == requests
    text = " ".join(path.read_text("utf-8") for path in run.rglob("*.json*"))
    assert PROMPT not in text
    assert json.dumps(PROMPT)[1:-1] not in text


def test_another_prompt_gets_queries_of_its_own(endpoint: ChatEndpoint, prompt: Path) -> None:
    assert data(endpoint, prompt).code == 0
    prompt.write_text("Answer as a lighthouse keeper.\n")
    again = data(endpoint, prompt)
    assert again.code == 0, again.err
    assert "30 queries written" in again.err
    assert "is kept as" in again.err


def test_a_plan_sends_nothing(endpoint: ChatEndpoint, prompt: Path) -> None:
    plan = promptbake("plan", prompt, "--profile", "mock", *settings("data.queries=generate"))
    assert plan.code == 0
    assert endpoint.meter.requests == 0


def test_too_few_are_an_error(endpoint: ChatEndpoint, prompt: Path) -> None:
    complaint = data(endpoint, prompt, "data.n_queries=500").complaint
    assert "of 500 different queries were written; the model said 'Here they are: - to" in complaint
    assert "lower data.n_queries" in complaint
    run = prompt.parent / "runs" / "pirate"
    assert not (run / "data.jsonl").exists()
    assert (run / "query_answers.txt").read_text().count("What is the SAME?") == 3 * 25
    assert data(endpoint, prompt).code == 0
    assert not (run / "query_answers.txt").exists()
