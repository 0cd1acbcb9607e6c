"""No measurement is made twice: the curve, `verify` and a second `verify` share a store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from metered import N_HELD_OUT, PROMPT, QUESTIONS, SETTINGS, Tariff, metered, write_prompt

import promptbake
from promptbake.distill.measurement_store import MeasurementStore
from promptbake.evaluate.arms import AnswerSampling, ask_arms, four_arms
from promptbake.progress import SilentReporter
from promptbake.runs.session import Session
from promptbake.stages import bake, data, verify
from promptbake.types import Arm, BakeTarget, Completion, Message, Prompt, Query, TokenIds
from promptbake_mock.tiny import NAME, tiny_backend

ANSWERS = 4 * len(QUESTIONS)
TARGETS = """
[[targets]]
name = "pirate"
teacher = "pirate.md"

[[targets]]
name = "same"
teacher = ""
"""


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    return write_prompt(tmp_path)


@pytest.fixture
def baked(prompt: Path) -> Path:
    """The prompt of a run that was baked on a service that bills each call."""
    session = metered(prompt, Tariff())
    for name, stage in (("data", data), ("bake", bake)):
        with session.stage_lock(name):
            stage.run(session)
    return prompt


def verified(session: Session, *, anew: bool = False) -> dict[str, Any]:
    """verify.json without its seconds and its date."""
    with session.stage_lock("verify"):
        verify.run(session, anew=anew)
    record: dict[str, Any] = json.loads(session.run.verify.read_bytes())
    del record["seconds"], record["origin"]["date"]
    return record


def calls(prompt: Path) -> dict[str, int]:
    """How often the service has been asked, by kind of work."""
    by_work = metered(prompt, Tariff()).budget.by_work()
    return {what: usage.calls for what, usage in by_work.items()}


def increase(prompt: Path, before: dict[str, int]) -> dict[str, int]:
    return {
        what: count - before.get(what, 0)
        for what, count in calls(prompt).items()
        if count != before.get(what)
    }


def test_verify_reads_the_curves_ends_and_a_second_verify_asks_nothing(baked: Path) -> None:
    before = calls(baked)
    first = verified(metered(baked, Tariff()))
    expected = {"verify: logprobs": 3 * N_HELD_OUT, "verify: sample": ANSWERS}
    control = {"verify: top_k": N_HELD_OUT}  # by a prompt that it was not made from
    assert increase(baked, before) == expected | control
    before = calls(baked)
    assert verified(metered(baked, Tariff())) == first
    assert increase(baked, before) == {}
    assert verified(metered(baked, Tariff()), anew=True) == first
    again = increase(baked, before)
    assert again == {"verify: logprobs": 5 * N_HELD_OUT, "verify: sample": ANSWERS}


def test_of_changed_questions_only_the_new_ones_are_asked(baked: Path) -> None:
    first = verified(metered(baked, Tariff()))
    before = calls(baked)
    (baked.parent / "questions.txt").write_text("\n".join([*QUESTIONS[:-1], "Whither?"]))
    second = verified(metered(baked, Tariff()))
    assert increase(baked, before) == {"verify: sample": 4}
    assert second["kl"] == first["kl"]
    assert second["answers"][:-1] == first["answers"][:-1]
    before = calls(baked)
    verified(metered(baked, Tariff(), "verify.temperature=0.1"))
    assert increase(baked, before) == {"verify: sample": ANSWERS}


def test_a_new_bake_is_measured_and_the_base_model_is_not(baked: Path) -> None:
    first = verified(metered(baked, Tariff()))
    before = calls(baked)
    session = metered(baked, Tariff(), "train.lr=0.003")
    with session.stage_lock("bake"):
        bake.run(session)
    # Two more points of the curve: the first one is known.
    assert increase(baked, before)["bake: logprobs"] == 2 * N_HELD_OUT
    before = calls(baked)
    second = verified(metered(baked, Tariff(), "train.lr=0.003"))
    # Re-prompted, and the control's baked arm.
    expected = {"verify: logprobs": 2 * N_HELD_OUT, "verify: sample": ANSWERS // 2}
    assert increase(baked, before) == expected
    assert second["kl"]["base"] == first["kl"]["base"]
    assert second["kl"]["baked"] != first["kl"]["baked"]
    assert second == verified(metered(baked, Tariff(), "train.lr=0.003"), anew=True)


def test_what_is_damaged_is_measured_again(baked: Path) -> None:
    first = verified(metered(baked, Tariff()))
    before = calls(baked)
    file = metered(baked, Tariff()).run.measurements
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0].replace(b"0.", b"1.", 1), *lines[1:-1], lines[-1][20:]]))
    assert verified(metered(baked, Tariff())) == first
    assert increase(baked, before) == {"verify: logprobs": N_HELD_OUT, "verify: sample": 1}


class CountingModel:
    """The tiny model, which says how many prompts each call of `sample` has."""

    def __init__(self, sample_batch: int | None) -> None:
        self._inner = tiny_backend().open_model(NAME)
        self.sample_batch = sample_batch
        self.calls: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def sample(self, prompts: Sequence[TokenIds], **how: Any) -> Iterator[tuple[int, Completion]]:
        self.calls.append(len(prompts))
        return self._inner.sample(prompts, **how)


@pytest.mark.parametrize(
    ("sample_batch", "calls", "after_a_change"),
    [(None, [6, 6], [2, 2]), (32, [6, 6], [6, 6])],
)
def test_arms_with_the_same_weights_are_asked_in_one_call_and_batches_are_asked_whole(
    tmp_path: Path, sample_batch: int | None, calls: list[int], after_a_change: list[int]
) -> None:
    model = CountingModel(sample_batch)
    arms = four_arms(BakeTarget("", Prompt("pirate", PROMPT)), lambda: model, lambda: model)

    def ask(*questions: str) -> tuple[list[int], dict[str, Mapping[Arm, str]]]:
        queries = [Query(text, (Message("user", text),)) for text in questions]
        store = MeasurementStore(tmp_path / "m.jsonl", print)
        model.calls.clear()
        answers = ask_arms(
            arms, queries, AnswerSampling(6, 1.0, 0), store, "baked", SilentReporter()
        )
        return list(model.calls), {each.query.id: each.texts for each in answers}

    asked, first = ask(*QUESTIONS)
    assert asked == calls
    assert first.keys() == set(QUESTIONS)
    for texts in first.values():  # the same weights, under another name
        assert texts["base"] == texts["baked"] != texts["prompted"] == texts["reprompted"]
    assert ask(*QUESTIONS) == ([], first)
    asked, second = ask(*QUESTIONS[:2], "Whither?")
    assert asked == after_a_change
    assert {question: second[question] for question in QUESTIONS[:2]} == {
        question: first[question] for question in QUESTIONS[:2]
    }


@pytest.mark.parametrize("targets", ["", TARGETS], ids=["one", "two"])
def test_the_curves_ends_are_bit_for_bit_what_verify_would_measure(
    prompt: Path, monkeypatch: pytest.MonkeyPatch, targets: str
) -> None:
    """With a local backend: a fresh LoRA adds zeros, and a saved one is the one in training."""
    monkeypatch.chdir(prompt.parent)
    prompt.with_suffix(".toml").write_text(targets)
    files = ("data.queries=queries.txt", "verify.questions=questions.txt")
    settings = dict[str, object]()
    for setting in (*SETTINGS, *files):
        key, _, value = setting.partition("=")
        settings[key] = value if value.isalpha() or ".txt" in value else json.loads(value)
    job: dict[str, Any] = {"profile": "mock", "run": "run", "quiet": True, "settings": settings}
    promptbake.data(prompt, **job)
    promptbake.bake(prompt, **job)
    stored = Path("run/measurements.jsonl").read_text().count('"kl"')
    assert stored == (4 if targets else 2)
    first, second = (promptbake.verify(prompt, force=force, **job) for force in (False, True))
    assert first.kl == second.kl
    assert first.targets == second.targets
    assert first.answers == second.answers
