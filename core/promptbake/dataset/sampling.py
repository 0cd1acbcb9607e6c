"""Sampling a model: requests in, conversations out; and a stream of tokens as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from promptbake.costs import CostEstimate, SampleWork
from promptbake.dataset.alignment import check_room, common_prefix
from promptbake.errors import BakeError
from promptbake.interfaces import GenerationJob, Model, Renderer
from promptbake.seeds import derive
from promptbake.types import (
    Completion,
    Conversation,
    GenerationRequest,
    Message,
    Query,
    StopReason,
    StreamChunk,
)

PARTIAL_CHARACTER = "\ufffd"  # what a tokenizer decodes the first bytes of a character to


def sample_responses(job: GenerationJob) -> Iterator[Conversation]:
    """Let the prompted base model answer the requests that are not completed.

    The requests are cut into the same batches each time, and a batch of which anything is missing
    is sampled whole, so that a response never depends on where an earlier run was killed.

    Raises:
        BakeError: At once, where nothing can be sampled: several turns are wanted, there is no
            model, or its context is too short.
    """
    if job.turns > 1:
        raise BakeError(
            f"data.turns = {job.turns}: the base model itself gives one answer a conversation; for "
            "more, choose a data.provider that asks chat endpoints (`promptbake plugins` has them)"
        )
    model = job.open_model()
    check_room(job.prompt, model, job.max_tokens)
    for request in job.requests:
        _check_fits(request, job, model)
    return _generate(job, model)


def _generate(job: GenerationJob, model: Model) -> Iterator[Conversation]:
    requests = sorted(job.requests, key=lambda request: _length(request.query))  # little padding
    if model.sample_batch is None:
        missing = [request for request in requests if request.id not in job.completed_ids]
        yield from _answer(job, model, missing)
        return
    for start in range(0, len(requests), model.sample_batch):
        batch = requests[start : start + model.sample_batch]
        if all(request.id in job.completed_ids for request in batch):
            continue
        for conversation in _answer(job, model, batch):
            if conversation.id not in job.completed_ids:
                yield conversation


def estimate_responses(job: GenerationJob) -> CostEstimate:
    """What `sample_responses` would cost, with every response at `max_tokens`."""
    model = job.open_model()
    prompts = [
        model.renderer.prompt(request.query.messages, job.prompt.system)
        for request in job.requests
        if request.id not in job.completed_ids
    ]
    rows = tuple((len(prompt), job.max_tokens) for prompt in prompts)
    return model.estimate_cost(SampleWork(rows, len(common_prefix(prompts))))


def decode_stream(
    renderer: Renderer, chunks: Iterable[StreamChunk]
) -> Iterator[tuple[str, StopReason | None]]:
    """A stream of tokens as pieces of text, none of which ends within a character.

    The last pair, and no other, has the reason why the response ended. A token's text depends on
    the token before it, so each piece is decoded with the one before, and no more: the work is
    linear in the response's length.
    """
    before, new = list[int](), list[int]()
    for chunk in chunks:
        new += chunk.tokens
        text = renderer.text(before + new)
        if chunk.stop_reason is None and text.endswith(PARTIAL_CHARACTER):
            continue
        yield text[len(renderer.text(before)) :], chunk.stop_reason
        before, new = new or before, []


def _answer(
    job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
) -> Iterator[Conversation]:
    for index, completion in _completions(job, model, batch):
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


def _completions(
    job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
) -> Iterator[tuple[int, Completion]]:
    """Each response, whose scores are taken if they are wanted and the model can give them."""
    prompts = [model.renderer.prompt(each.query.messages, job.prompt.system) for each in batch]
    settings: dict[str, Any] = {
        "max_tokens": job.max_tokens,
        "temperatures": [request.temperature for request in batch],
        "seeds": [derive(job.seed, "response", request.id) for request in batch],
        "progress": job.progress,
    }
    scores, scoring = job.scores, getattr(model, "sample_with_top_k", None)
    if scores is None or scoring is None:
        yield from model.sample(prompts, **settings)
        return
    seeds = [scores.seed(prompt) for prompt in prompts]
    scored = scoring(prompts, **settings, k=scores.k, draws=scores.draws, draw_seeds=seeds)
    for index, completion, top_k in scored:
        scores.take(batch[index].id, completion, top_k)
        yield index, completion


def _check_fits(request: GenerationRequest, job: GenerationJob, model: Model) -> None:
    tokens = model.renderer.prompt(request.query.messages, job.prompt.system)
    needed = len(tokens) + job.max_tokens
    if needed > model.context_tokens:
        raise BakeError(
            f"query {request.query.id}: with the prompt and a response of {job.max_tokens} tokens "
            f"it takes {needed} tokens, and the context of {model.name} holds "
            f"{model.context_tokens}; shorten it or lower data.max_tokens"
        )


def _length(query: Query) -> tuple[int, str]:
    return sum(len(message.content) for message in query.messages), query.id
