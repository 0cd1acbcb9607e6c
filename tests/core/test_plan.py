"""The plan predicts what the stages use, beside the usage so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from metered import (
    LONGEST,
    N_HELD_OUT,
    N_TRAINING,
    PROMPT,
    QUERIES,
    QUESTIONS,
    STEPS,
    Tariff,
    metered,
    opened,
    write_prompt,
)

from promptbake.costs import TopKWork, TrainWork, Usage
from promptbake.dataset.conversations import read
from promptbake.dataset.queries import load_queries, split
from promptbake.evaluate.controls import WRONG_PROMPTS
from promptbake.runs.session import Session
from promptbake.stages import bake, data, plan, verify
from promptbake.stages.plan import Plan
from promptbake.types import Message
from promptbake_mock.tiny import NAME, tiny_backend

DEFAULT = "Be kind."  # the system prompt of the tiny model's template where none is given
EVALS = 3  # at steps 0, 4 and 6


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    return write_prompt(tmp_path)


def usages(planned: Plan) -> dict[str, Usage]:
    return {row.key: row.estimate.usage for row in planned.rows}


def n_tokens(text: str, system: str) -> int:
    """Of a user's turn in the tiny model's template: a token a byte, and one for each tag."""
    turns = (("system", system), ("user", text))
    tags = sum(1 + len(f"{role}\n{line}".encode()) + 1 + len("\n") for role, line in turns)
    return tags + 1 + len("assistant\n")


def query_texts(session: Session) -> tuple[list[str], list[str]]:
    """The words of the queries to train on, once for each temperature, and of those held out."""
    parts = split(load_queries(session.config.data.queries), 2, session.config.seed)
    training, held_out = (
        [query.messages[-1].content for query in side] for side in (parts.training, parts.held_out)
    )
    return training * 2, held_out


def total(texts: Sequence[str], system: str, response: int) -> int:
    return sum(n_tokens(text, system) + response for text in texts)


def with_wrong_prompt(texts: Sequence[str]) -> int:
    """What the base model reads for the control, with responses at their longest."""
    renderer, wrong = tiny_backend().open_model(NAME).renderer, WRONG_PROMPTS[0].system
    return sum(len(renderer.prompt((Message("user", t),), wrong)) + LONGEST for t in texts)


def test_before_any_stage_the_tokens_are_those_of_the_longest_responses(prompt: Path) -> None:
    session = opened(prompt)
    training, held_out = query_texts(session)
    assert (len(training), len(held_out)) == (N_TRAINING, N_HELD_OUT)
    planned = plan.make(session)
    assert planned.basis == "worst case (max_tokens)"
    everything = [*training, *held_out]
    held_out_student = total(held_out, DEFAULT, LONGEST)
    held_out_teacher = total(held_out, PROMPT, LONGEST)
    questions = total(QUESTIONS, DEFAULT, 0) + total(QUESTIONS, PROMPT, 0)
    assert usages(planned) == {
        "data: sample": Usage(
            10, input_tokens=total(everything, PROMPT, 0), output_tokens=len(everything) * LONGEST
        ),
        "bake: top_k": Usage(N_TRAINING, input_tokens=total(training, PROMPT, LONGEST)),
        "bake: train": Usage(STEPS, train_tokens=2 * total(training, DEFAULT, LONGEST)),
        "bake: logprobs": Usage(  # the curve, and the reference that it is measured with
            EVALS * N_HELD_OUT + N_HELD_OUT,
            input_tokens=EVALS * held_out_student + held_out_teacher,
        ),
        "verify: logprobs": Usage(  # the reference, re-prompted, and the control
            5 * N_HELD_OUT,
            input_tokens=2 * held_out_teacher + with_wrong_prompt(held_out) + 2 * held_out_student,
        ),
        "verify: sample": Usage(12, input_tokens=2 * questions, output_tokens=12 * LONGEST),
    }


def test_after_the_data_the_tokens_are_those_of_the_responses_as_they_are(prompt: Path) -> None:
    session = opened(prompt)
    with session.stage_lock("data"):
        data.run(session)
    planned = plan.make(opened(prompt))
    assert planned.basis == "responses as they are in the run folder"

    def read_as(path: Path, system: str) -> int:
        return sum(
            n_tokens(line.messages[0].content, system)
            + len(line.response.encode())
            + line.complete  # the end of the turn
            for line in read(path)
        )

    run, predicted = session.run, usages(planned)
    assert len(read(run.data)) == N_TRAINING
    teacher = [read_as(path, PROMPT) for path in (run.data, run.held_out)]
    student = [read_as(path, DEFAULT) for path in (run.data, run.held_out)]
    assert predicted["bake: top_k"] == Usage(N_TRAINING, input_tokens=teacher[0])
    assert predicted["bake: train"] == Usage(STEPS, train_tokens=2 * student[0])
    assert predicted["bake: logprobs"].input_tokens == EVALS * student[1] + teacher[1]
    _, held_out = query_texts(session)
    longer = with_wrong_prompt(held_out) - total(held_out, DEFAULT, LONGEST)
    assert predicted["verify: logprobs"].input_tokens == 2 * teacher[1] + 3 * student[1] + longer


@pytest.mark.parametrize(
    ("eval_every", "evals"),
    [(1, 7), (2, 4), (3, 3), (4, 3), (5, 3), (6, 2), (99, 2)],
)
def test_the_curve_has_a_point_at_0_at_every_eval_every_and_at_the_last_step(
    prompt: Path, eval_every: int, evals: int
) -> None:
    predicted = usages(plan.make(opened(prompt, f"train.eval_every={eval_every}")))
    assert predicted["bake: logprobs"].calls == (evals + 1) * N_HELD_OUT


def test_the_stages_use_and_pay_what_was_planned(prompt: Path) -> None:
    session, plans = metered(prompt, Tariff()), []
    for name, stage in (("data", data), ("bake", bake), ("verify", verify)):
        with session.stage_lock(name):
            stage.run(session)
        plans.append(plan.make(metered(prompt, Tariff())))
    after_data, after_bake, after_verify = plans
    predicted = usages(after_data)
    assert len(predicted) == 7
    assert session.budget.by_work().keys() == predicted.keys()
    for row in after_verify.rows:
        assert row.spent == row.estimate.usage == predicted[row.key], row.key
    assert [row.key for row in after_data.rows if row.spent] == ["data: sample"]
    assert [row.stage for row in after_bake.rows if not row.spent] == ["verify"] * 3

    dollars = sum(usage.dollars for usage in predicted.values())
    assert after_verify.dollars == pytest.approx(dollars)
    assert after_verify.spent == pytest.approx(dollars)
    assert after_data.spent == pytest.approx(predicted["data: sample"].dollars)
    value = after_data.as_json()
    assert value["spent_dollars"] == after_data.spent
    assert Usage(**value["rows"][0]["spent"]) == predicted["data: sample"]
    assert [row["spent"] for row in value["rows"][1:]] == [None] * 6


def test_a_loss_without_a_teacher_plans_for_the_held_out_reference_alone(prompt: Path) -> None:
    _, held_out = query_texts(opened(prompt))
    cross_entropy = "train.loss=cross_entropy"
    predicted = usages(plan.make(opened(prompt, cross_entropy)))
    others = usages(plan.make(opened(prompt)))
    assert predicted.pop("bake: top_k") == Usage()
    assert others.pop("bake: top_k").calls == N_TRAINING
    assert predicted == others
    priced = usages(plan.make(metered(prompt, Tariff(0), cross_entropy)))  # no whole vocabulary
    assert priced["bake: top_k"] == Usage(N_HELD_OUT, input_tokens=total(held_out, PROMPT, LONGEST))


@pytest.mark.parametrize("provider", ["self", "mock"])  # no price is known, or some are
def test_an_unknown_price_is_not_taken_for_0(prompt: Path, provider: str) -> None:
    planned = plan.make(metered(prompt, Tariff(None), f"data.provider={provider}"))
    value = planned.as_json()
    assert [row["priced"] for row in value["rows"][:2]] == [provider == "mock", False]
    assert (planned.dollars, value["dollars"], planned.max_dollars) == (None, None, None)
    assert (planned.seconds, value["seconds"], value["rows"][1]["seconds"]) == (None, None, None)


def test_prices_are_named_once_with_where_they_are_from(prompt: Path) -> None:
    planned = plan.make(metered(prompt, Tariff(2.0)))
    assert planned.sources == ("the tariff of today",)
    assert planned.as_json()["prices"] == ["the tariff of today"]
    tokens = sum(
        u.input_tokens + u.output_tokens + u.train_tokens for u in usages(planned).values()
    )
    assert planned.dollars == pytest.approx(tokens * 2.0 / 1024)


def test_rows_that_begin_alike_are_estimated_with_what_they_share(prompt: Path) -> None:
    tariff = Tariff()
    plan.make(metered(prompt, tariff))
    after = len("<\n<assistant\n")  # an empty turn of the user, from its end on; a tag is a token
    prompted, bare = (n_tokens("", system) - after for system in (PROMPT, DEFAULT))
    wrong = with_wrong_prompt([""]) - LONGEST - after
    assert {(work.kind, len(work.rows), work.times, work.shared) for work in tariff.works} == {
        ("sample", N_TRAINING + N_HELD_OUT, 1, prompted),
        ("top_k", N_TRAINING, 1, prompted),
        ("top_k", N_HELD_OUT, 1, prompted),
        ("train", N_TRAINING, 2, 0),
        ("logprobs", N_HELD_OUT, EVALS, bare),
        ("logprobs", N_HELD_OUT, 1, prompted),
        ("top_k", N_HELD_OUT, 1, wrong),
        ("logprobs", N_HELD_OUT, 2, bare),
        ("sample", 2 * len(QUESTIONS), 2, bare),
    }


@pytest.mark.parametrize(
    ("settings", "support", "forward_first"),
    [
        ((), 7, False),
        (("train.tail=bucket",), 5, True),
        (("train.loss=cross_entropy",), 1, False),
        (("train.loss=reverse_kl",), 7, True),
    ],
)
def test_training_is_estimated_as_the_loss_needs_it(
    prompt: Path, settings: Sequence[str], support: int, forward_first: bool
) -> None:
    tariff = Tariff()
    plan.make(metered(prompt, tariff, "teacher.top_k=5", "train.tail_draws=2", *settings))
    (work,) = (work for work in tariff.works if isinstance(work, TrainWork))
    assert (work.support, work.forward_first) == (support, forward_first)
    assert (work.times, work.steps, len(work.rows)) == (2, STEPS, N_TRAINING)


@pytest.mark.parametrize(("tail", "draws"), [("sampled", 2), ("drop", 0)])
def test_draws_for_the_tail_come_from_the_teacher_and_not_from_the_reference(
    prompt: Path, tail: str, draws: int
) -> None:
    tariff = Tariff()
    plan.make(metered(prompt, tariff, "train.tail_draws=2", f"train.tail={tail}"))
    works = [work for work in tariff.works if isinstance(work, TopKWork)]
    assert {(len(work.rows), work.draws) for work in works} == {
        (N_TRAINING, draws),
        (N_HELD_OUT, 0),
    }


@pytest.mark.parametrize("change", ["data.max_tokens=9", "seed=1", "prompt"])
def test_responses_that_would_be_sampled_anew_are_planned_at_their_longest(
    prompt: Path, change: str
) -> None:
    session = opened(prompt)
    with session.stage_lock("data"):
        data.run(session)
    if change == "prompt":
        prompt.write_text("Another one.")
    planned = plan.make(opened(prompt, *([] if change == "prompt" else [change])))
    assert planned.basis == "worst case (max_tokens)"


def test_conversations_that_are_there_already_are_planned_once_each(prompt: Path) -> None:
    file = prompt.with_name("conversations.jsonl")
    turns = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": "Arr."}]
        for text in QUERIES
    ]
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    settings = ("data.provider=files", f"options.data_providers.files.path={file}")
    predicted = usages(plan.make(opened(prompt, *settings)))
    assert predicted["bake: top_k"].calls == len(QUERIES) - N_HELD_OUT
