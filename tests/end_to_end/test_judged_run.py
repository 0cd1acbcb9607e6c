"""`verify` with the evaluator `judge`, against an endpoint on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import promptbake
from run_folder import MOCK, settings

from promptbake_loopback.openai import ChatEndpoint

KEY = "sk-test-0f4a77d1"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatEndpoint]:
    """A judge that prefers whatever it reads first, and loses one request in five."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with ChatEndpoint(key=KEY, answer=lambda _: "A", faults=0.2, kinds=("429",)) as served:
        yield served


def test_a_judged_run_is_planned_measured_once_and_rechecked(
    own_copy: Path, prompt: Path, endpoint: ChatEndpoint
) -> None:
    options = settings(
        "verify.evaluators=['judge']",
        "options.evaluators.judge.model=tiny-chat",
        f"options.evaluators.judge.base_url={endpoint.url}",
        "options.evaluators.judge.prices={prompt=0.15, completion=0.6}",
        "budget.max_dollars=1",
    )
    plan = json.loads(promptbake("plan", prompt, *MOCK, *options, "--json").out)
    assert 0 < plan["dollars"] < 1
    assert promptbake("verify", prompt, *MOCK, *options).code == 0
    results = json.loads((own_copy / "verify.json").read_bytes())["evaluators"]
    assert set(results["judge.baked_wins"]["scores"]["baked"].values()) == {0.5}
    ties = results["judge.ties"]["shares"]["baked"]
    assert ties["count"] == ties["items"] == 10
    sent = endpoint.meter.answers
    assert promptbake("verify", prompt, *MOCK, *options).code == 0
    assert endpoint.meter.answers == sent
    assert promptbake("recheck", own_copy).code == 0
    files = [path for path in own_copy.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
