"""Good data providers for faulty ones to be made of: a sampling one, a service, and a shelf."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from faulty_suites import edited

from promptbake.costs import NO_COST, CostEstimate, NoBudget, Usage
from promptbake.dataset.sampling import estimate_responses, sample_responses
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import GenerationJob, Model, no_progress
from promptbake.seeds import derive
from promptbake.types import (
    Completion,
    Conversation,
    GenerationRequest,
    Message,
    Prompt,
    Query,
    Rejection,
    TokenIds,
)

KEY, VALUE = "TOY_API_KEY", "toy-key-27b0"
DOLLARS = 1e-6  # a token
LONGEST = 16  # words of an answer of the service
NO_PROMPT = Prompt("", "")

BASE = '''
class Toy:
    """Samples the prompted base model."""

    def queries(self):
        return ()

    def estimate_cost(self, job):
        return estimate_responses(job)

    def generate(self, job):
        items = sample_responses(job)
        return (item for item in items)
'''
SHELF = '''
class Toy:
    """Hands out what it has: two answers to each of its queries."""

    def queries(self):
        texts = ("What is a tide?", "Who are you?", "Say hm.")
        queries = [Query(f"shelf-{n}", (Message("user", text),)) for n, text in enumerate(texts)]
        return queries

    def estimate_cost(self, job):
        return NO_COST

    def generate(self, job):
        items = [each for each in self.stored() if each.id not in job.completed_ids]
        return (item for item in items)

    def stored(self):
        answers = [Message("assistant", f"Arr, {n} of them.") for n in range(2)]
        stored = [
            Conversation(f"{query.id}-{n}", query.id, (*query.messages, answer))
            for query in self.queries()
            for n, answer in enumerate(answers)
        ]
        return stored
'''
SERVICE = '''
class Toy:
    """Asks the service, which is paid by the token."""

    priced = True
    kind = "sample"

    def __init__(self, broken=False):
        self.broken = broken

    def queries(self):
        return ()

    def estimate_cost(self, job):
        usage = sum((self.at_most(job, request) for request in left(job)), Usage())
        return CostEstimate(usage, self.priced, None)

    def generate(self, job):
        if job.budget.capped and not self.priced:
            raise BakeError("budget.max_dollars: the price is not known")
        if not os.environ.get(KEY):
            raise BakeError(f"{KEY}: is not set")
        return self.items(job, os.environ[KEY])

    def items(self, job, key):
        for request in left(job):
            reservation = job.budget.reserve(self.kind, self.at_most(job, request))
            try:
                replies = self.talk(job, request, key)
            except BakeError:
                reservation.commit(Usage())
                raise
            reservation.commit(sum((reply.usage for reply in replies), Usage()))
            job.note(f"{request.id} is here")
            yield self.conversation(request, replies)

    def at_most(self, job, request):
        read = len(job.prompt.text) + sum(len(each.content) for each in request.query.messages)
        calls = 2 * job.turns - 1
        read, output = (read + job.max_tokens * calls) * calls, job.max_tokens * calls
        dollars = (read + output) * DOLLARS * self.priced
        return Usage(calls, read, output_tokens=output, dollars=dollars)

    def talk(self, job, request, key):
        """The answers, and between them what the user says."""
        turns = list(request.query.messages)
        if job.prompt.system:
            turns.insert(0, Message("system", job.prompt.system))
        replies = []
        for turn in range(2 * job.turns - 1):
            seed = derive(job.seed, request.id, turn)
            sent = "nobody's" if self.broken else key
            try:
                replies.append(serve(sent, turns, request.temperature, job.max_tokens, seed))
            except ConnectionError as error:
                raise BakeError("the service cannot be asked") from None
            turns.append(Message("user", replies[-1].text))
        return replies

    def conversation(self, request, replies):
        turns = list(request.query.messages)
        for place, reply in enumerate(replies):
            turns.append(Message("user" if place % 2 else "assistant", reply.text))
        meta = {"temperature": request.temperature, "model": "toy"}
        complete = replies[-1].complete
        return Conversation(request.id, request.query.id, tuple(turns), complete, meta)
'''


def left(job: GenerationJob) -> list[GenerationRequest]:
    """What is not completed."""
    return [request for request in job.requests if request.id not in job.completed_ids]


class Sampler:
    """A model whose `sample` is changed: `change` is given the good one and its arguments."""

    def __init__(self, model: Model, change: Callable[..., Any]) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def sample(self, prompts: Sequence[TokenIds], **options: Any) -> Any:
        return self._change(self._model.sample, prompts, **options)


@dataclass(frozen=True)
class Reply:
    """Of the service: up to so many words, each a token."""

    text: str
    complete: bool
    usage: Usage


def serve(
    key: str, turns: Sequence[Message], temperature: float, max_tokens: int, seed: int
) -> Reply:
    """A service, whose words depend on all that it is sent."""
    if key != VALUE:
        raise ConnectionError(f"401: {key!r} is no key")
    sent = repr([turns, temperature, seed]).encode()
    words = [hashlib.sha256(sent + bytes([place])).hexdigest()[:4] for place in range(LONGEST)]
    said = words[: 5 + int(words[0], 16) % (LONGEST - 5)]
    kept = said[:max_tokens]
    read = sum(len(each.content.split()) for each in turns)
    usage = Usage(1, read, output_tokens=len(kept), dollars=(read + len(kept)) * DOLLARS)
    return Reply(" ".join(kept), len(kept) == len(said), usage)


def pasted(turns: tuple[Message, ...], job: GenerationJob) -> tuple[Message, ...]:
    return (*turns[:-1], Message("user", f"{job.prompt.text}\n\n{turns[-1].content}"))


def seeds_by_the_place(job: GenerationJob) -> Iterator[Conversation | Rejection]:
    places = {request.id: str(place) for place, request in enumerate(left(job))}
    ids = {place: id_ for id_, place in places.items()}
    renamed = tuple(replace(request, id=places[request.id]) for request in left(job))
    for item in sample_responses(replace(job, requests=renamed)):
        yield replace(item, id=ids[item.id])


KNOWN = (  # to the sources and to the edits
    BakeError, BudgetError, Completion, Conversation, CostEstimate, Message, NoBudget, Prompt,
    Query, Rejection, Sampler, Usage, derive, estimate_responses, left, logging, math, no_progress,
    os, pasted, replace, sample_responses, seeds_by_the_place, serve,
)  # fmt: skip


def provider(source: str, *edits: str) -> Any:
    known = {each.__name__: each for each in KNOWN} | {"NEXT": count().__next__, "KEPT": {}}
    known |= {"KEY": KEY, "DOLLARS": DOLLARS, "NO_COST": NO_COST, "NO_PROMPT": NO_PROMPT}
    return edited(source, edits, **known)["Toy"]()
