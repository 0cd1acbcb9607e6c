"""The base model as its own provider and teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from promptbake.budget import NoBudget
from promptbake.interfaces import Generation, Model
from promptbake.types import Message, Prompt, Query, Request, Span
from promptbake_mock.tiny import NAME, tiny_backend
from promptbake_self import self_provider, self_teacher

PROMPT = Prompt("yoda", "Speak like Yoda, you must.")
PLAN = tuple(
    Request(f"{number}@1", Query(str(number), (Message("user", "Why? " * number),)), 1.0)
    for number in (3, 1, 2)
)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_backend().open_model(NAME)


def job(model: Model, done: Sequence[str] = (), seed: int = 0) -> Generation:
    return Generation(PROMPT, PLAN, frozenset(done), 6, seed, lambda: model, NoBudget())


def spans(model: Model) -> list[Span]:
    response = model.renderer.response("So it is.", True)
    prompt = model.renderer.prompt((Message("user", "Is it?"),), PROMPT.text)
    return [Span(prompt + response, len(response)), Span(prompt + response[:3], 3)]


def test_the_prompted_model_answers_every_request_without_the_prompt(model: Model) -> None:
    provider = self_provider()
    assert provider.queries() == ()
    answers = {answer.id: answer for answer in provider.generate(job(model))}
    assert set(answers) == {request.id for request in PLAN}
    for request in PLAN:
        answer = answers[request.id]
        assert answer.query_id == request.query.id
        assert answer.messages[:-1] == request.query.messages
        assert answer.messages[-1].role == "assistant"
        assert answer.meta["temperature"] == 1.0
        assert answer.meta["tokens"] == len(model.renderer.response(answer.response, False))


def test_an_answer_depends_on_the_prompt_and_the_seed_and_not_on_what_is_done(
    model: Model,
) -> None:
    provider = self_provider()
    answers = list(provider.generate(job(model)))
    assert list(provider.generate(job(model, done=["1@1"]))) == [
        answer for answer in answers if answer.id != "1@1"
    ]
    assert list(provider.generate(job(model, seed=1))) != answers


def test_nothing_is_sampled_where_all_is_done(model: Model) -> None:
    assert list(self_provider().generate(job(model, [request.id for request in PLAN]))) == []


def test_the_teacher_is_the_base_models_top_k(model: Model) -> None:
    asked = spans(model)
    answers = list(
        self_teacher().targets(asked, k=5, draws=2, seeds=[1, 2], open_model=lambda: model)
    )
    for span, (_, answer) in zip(asked, answers, strict=True):
        (whole,) = model.logprobs([span])  # alone, as the teacher is asked
        top = whole.topk(5, dim=1)
        assert torch.equal(answer.ids, top.indices)
        assert torch.equal(answer.logprobs, top.values)
        assert answer.drawn_ids.shape == (span.n_response, 2)
        assert torch.equal(answer.drawn_logprobs, whole.gather(1, answer.drawn_ids))
        assert not (answer.drawn_ids.unsqueeze(2) == answer.ids.unsqueeze(1)).any()


def test_a_spans_targets_do_not_depend_on_its_company(model: Model) -> None:
    def ask(asked: list[Span], seeds: list[int]) -> Iterator[Any]:
        return self_teacher().targets(asked, k=4, draws=3, seeds=seeds, open_model=lambda: model)

    first, second = spans(model)
    together = dict(ask([first, second], [1, 2]))
    apart = dict(ask([first], [1]))[0], dict(ask([second], [2]))[0]
    for index, alone in enumerate(apart):
        company = together[index]
        for name, value in vars(alone).items():
            assert torch.equal(value, getattr(company, name))
