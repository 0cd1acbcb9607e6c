"""Asking a model: requests in, conversations out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptbake.dataset.alignment import check_room, common_prefix
from promptbake.errors import BakeError
from promptbake.interfaces import GenerationJob, Model
from promptbake.seeds import derive
from promptbake.types import Conversation, CostEstimate, GenerationRequest, Message, Query, Work


def generate(job: GenerationJob) -> Iterator[Conversation]:
    """Let the prompted model answer what is not done yet.

    The plan is cut into the same batches each time, and a batch of which anything is missing is
    sampled whole, so that an answer never depends on where an earlier run was killed. What cannot
    be answered at all is refused at once, by BakeError: no model, or a context that is too short.
    """
    if job.turns > 1:
        raise BakeError(
            f"data.turns = {job.turns}: the base model itself gives one answer a conversation; for "
            "more, choose a data.provider that asks chat endpoints (`promptbake plugins` has them)"
        )
    model = job.open_model()
    check_room(job.prompt, model, job.max_tokens)
    for request in job.plan:
        _check_fits(request, job, model)
    return _generate(job, model)


def _generate(job: GenerationJob, model: Model) -> Iterator[Conversation]:
    plan = sorted(job.plan, key=lambda request: _length(request.query))  # little padding
    if model.sample_batch is None:
        missing = [request for request in plan if request.id not in job.done]
        yield from _answer(job, model, missing)
        return
    for start in range(0, len(plan), model.sample_batch):
        batch = plan[start : start + model.sample_batch]
        if all(request.id in job.done for request in batch):
            continue
        for conversation in _answer(job, model, batch):
            if conversation.id not in job.done:
                yield conversation


def estimate_cost(job: GenerationJob) -> CostEstimate:
    """What `generate` would take of the base model, with every response at its longest."""
    model = job.open_model()
    prompts = [
        model.renderer.prompt(request.query.messages, job.prompt.text)
        for request in job.plan
        if request.id not in job.done
    ]
    rows = tuple((len(prompt), job.max_tokens) for prompt in prompts)
    return model.estimate_cost(Work("sample", rows, len(common_prefix(prompts))))


def answer(
    model: Model,
    queries: Sequence[Query],
    *,
    system: str | None,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> tuple[str, ...]:
    """The model's answer to each query, with a system prompt or without.

    A query's random numbers depend on the seed and the query alone, so that two models that agree
    give the same answer.
    """
    completions = dict(
        model.sample(
            [model.renderer.prompt(query.messages, system) for query in queries],
            max_tokens=max_tokens,
            temperatures=[temperature] * len(queries),
            seeds=[derive(seed, "answer", query.id) for query in queries],
        )
    )
    return tuple(model.renderer.text(completions[i].tokens) for i in range(len(queries)))


def _answer(
    job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
) -> Iterator[Conversation]:
    completions = model.sample(
        [model.renderer.prompt(request.query.messages, job.prompt.text) for request in batch],
        max_tokens=job.max_tokens,
        temperatures=[request.temperature for request in batch],
        seeds=[derive(job.seed, "response", request.id) for request in batch],
        progress=job.progress,
    )
    for index, completion in completions:
        request = batch[index]
        text = model.renderer.text(completion.tokens)
        yield Conversation(
            request.id,
            request.query.id,
            (*request.query.messages, Message("assistant", text)),
            completion.complete,
            {
                "model": model.name,
                "temperature": request.temperature,
                "tokens": len(completion.tokens),
                "category": request.query.category,
            },
        )


def _check_fits(request: GenerationRequest, job: GenerationJob, model: Model) -> None:
    tokens = model.renderer.prompt(request.query.messages, job.prompt.text)
    needed = len(tokens) + job.max_tokens
    if needed > model.context_tokens:
        raise BakeError(
            f"query {request.query.id}: with the prompt and a response of {job.max_tokens} tokens "
            f"it takes {needed} tokens, and the context of {model.name} holds "
            f"{model.context_tokens}; shorten it or lower data.max_tokens"
        )


def _length(query: Query) -> tuple[int, str]:
    return sum(len(message.content) for message in query.messages), query.id
