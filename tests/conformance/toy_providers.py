"""Good data providers: of the base model, of a paid service, and of what is stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from promptbake.costs import CostEstimate, Usage
from promptbake.errors import BakeError
from promptbake.interfaces import GenerationJob, Model
from promptbake.seeds import derive
from promptbake.types import (
    Completion,
    Conversation,
    GenerationRequest,
    Message,
    Query,
    Rejection,
    TokenIds,
    Work,
)

Answers = Iterator[Conversation | Rejection]
KEY, VALUE = "TOY_API_KEY", "toy-key-27b0"
DOLLARS = 1e-6  # a token
LONGEST = 16  # words of an answer of the service


class Good:
    """Samples the prompted base model, batch after batch."""

    def queries(self) -> Sequence[Query]:
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        model = job.open_model()
        rows = tuple((len(self.prompt(job, model, each)), job.max_tokens) for each in left(job))
        return model.estimate_cost(Work("sample", rows))

    def generate(self, job: GenerationJob) -> Answers:
        if job.turns > 1:
            raise BakeError("data.turns: one answer a conversation is all there is")
        return self.made(job, job.open_model())

    def made(self, job: GenerationJob, model: Model) -> Answers:
        size = model.sample_batch or len(job.requests)
        for start in range(0, len(job.requests), size):
            batch = job.requests[start : start + size]
            if self.wanted(job, batch):
                yield from self.sampled(job, model, batch)

    def wanted(self, job: GenerationJob, batch: Sequence[GenerationRequest]) -> bool:
        return any(request.id not in job.completed_ids for request in batch)

    def sampled(
        self, job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
    ) -> Answers:
        completions = model.sample(
            [self.prompt(job, model, request) for request in batch],
            max_tokens=self.limit(job),
            temperatures=[self.temperature(request) for request in batch],
            seeds=[self.seed(job, request) for request in batch],
            progress=job.progress,
        )
        for index, completion in completions:
            request = batch[index]
            if request.id not in job.completed_ids:
                yield self.answered(job, model, request, completion)

    def answered(
        self, job: GenerationJob, model: Model, request: GenerationRequest, completion: Completion
    ) -> Conversation | Rejection:
        return Conversation(
            request.id,
            request.query.id,
            self.turns(job, request, model.renderer.text(completion.tokens)),
            completion.complete,
            self.meta(job, request),
        )

    def prompt(self, job: GenerationJob, model: Model, request: GenerationRequest) -> TokenIds:
        return model.renderer.prompt(request.query.messages, job.prompt.text)

    def limit(self, job: GenerationJob) -> int:
        return job.max_tokens

    def temperature(self, request: GenerationRequest) -> float:
        return request.temperature

    def seed(self, job: GenerationJob, request: GenerationRequest) -> int:
        return derive(job.seed, "toy", request.id)

    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return (*request.query.messages, Message("assistant", text))

    def meta(
        self, job: GenerationJob, request: GenerationRequest
    ) -> dict[str, str | int | float | None]:
        return {"temperature": request.temperature, "category": request.query.category}


class GoodBestOfTwo(Good):
    """Samples two responses a request, and keeps the longer one."""

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        model = job.open_model()
        rows = tuple((len(self.prompt(job, model, each)), job.max_tokens) for each in left(job))
        return model.estimate_cost(Work("sample", rows, times=2))

    def sampled(
        self, job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
    ) -> Answers:
        for request in batch:
            if request.id in job.completed_ids:
                continue
            found = model.sample(
                [self.prompt(job, model, request)] * 2,
                max_tokens=job.max_tokens,
                temperatures=[request.temperature] * 2,
                seeds=[derive(job.seed, request.id, attempt) for attempt in range(2)],
            )
            best = max((each for _, each in found), key=lambda each: len(each.tokens))
            yield self.answered(job, model, request, best)


class GoodStream(Good):
    """Takes the tokens as they come."""

    def sampled(
        self, job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
    ) -> Answers:
        for request in batch:
            if request.id in job.completed_ids:
                continue
            tokens = tuple(
                model.stream(
                    self.prompt(job, model, request),
                    max_tokens=job.max_tokens,
                    temperature=request.temperature,
                    seed=self.seed(job, request),
                )
            )
            completion = Completion(tokens, complete=len(tokens) < job.max_tokens)
            yield self.answered(job, model, request, completion)


class GoodAndTidy(Good):
    """Strips its answers, and leaves out what is too short."""

    def answered(self, *given: Any) -> Conversation | Rejection:
        found = super().answered(*given)
        assert isinstance(found, Conversation)
        text = found.response.strip()
        if len(text) < 2:
            return Rejection(found.id, found.query_id, "it is too short", found.response)
        return replace(found, messages=(*found.messages[:-1], Message("assistant", text)))


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
    asked = repr([turns, temperature, seed]).encode()
    words = [hashlib.sha256(asked + bytes([place])).hexdigest()[:4] for place in range(LONGEST)]
    said = words[: 5 + int(words[0], 16) % (LONGEST - 5)]
    kept = said[:max_tokens]
    read = sum(len(each.content.split()) for each in turns)
    usage = Usage(1, read, output_tokens=len(kept), dollars=(read + len(kept)) * DOLLARS)
    return Reply(" ".join(kept), len(kept) == len(said), usage)


class GoodService:
    """Asks the service, which is paid by the token."""

    priced = True

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def queries(self) -> Sequence[Query]:
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        usage = sum((self.at_most(job, request) for request in left(job)), Usage())
        return CostEstimate(usage, self.priced, None)

    def generate(self, job: GenerationJob) -> Answers:
        if job.budget.capped and not self.priced:
            raise BakeError("budget.max_dollars: the price is not known")
        return self.made(job, self.key())

    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            held = job.budget.reserve("sample", self.at_most(job, request))
            try:
                replies = self.talk(job, request, key)
            except BakeError:
                held.commit(Usage())
                raise
            held.commit(total(replies))
            job.note(f"{request.id} is here")
            yield self.answered(job, request, replies)

    def key(self) -> str:
        found = os.environ.get(KEY)
        if not found:
            raise BakeError(f"{KEY}: is not set")
        return found

    def failed(self, error: ConnectionError, key: str) -> Exception:
        return BakeError(f"the service cannot be asked: {error}")

    def at_most(self, job: GenerationJob, request: GenerationRequest) -> Usage:
        turns = (Message("system", job.prompt.text), *request.query.messages)
        read = sum(len(each.content) for each in turns)
        calls = 2 * job.turns - 1
        grown = job.max_tokens * calls * calls
        return Usage(
            calls,
            input_tokens=read * calls + grown,
            output_tokens=job.max_tokens * calls,
            dollars=((read + job.max_tokens) * calls + grown) * DOLLARS * self.priced,
        )

    def talk(self, job: GenerationJob, request: GenerationRequest, key: str) -> list[Reply]:
        """The answers, and between them what the user says."""
        replies = list[Reply]()
        for turn in range(2 * job.turns - 1):
            said = tuple(Message("user", reply.text) for reply in replies)
            turns = self.sent(job, (*request.query.messages, *said))
            asked = (self.temperature(request), self.limit(job), self.seed(job, request, turn))
            try:
                replies.append(serve("nobody's" if self.broken else key, turns, *asked))
            except ConnectionError as error:
                raise self.failed(error, key) from None
        return replies

    def answered(
        self, job: GenerationJob, request: GenerationRequest, replies: Sequence[Reply]
    ) -> Conversation | Rejection:
        after = tuple(
            Message(("assistant", "user")[place % 2], reply.text)  # type: ignore[arg-type]
            for place, reply in enumerate(replies)
        )
        return Conversation(
            request.id,
            request.query.id,
            (*request.query.messages, *after),
            self.complete(replies),
            self.meta(request),
        )

    def sent(self, job: GenerationJob, turns: Sequence[Message]) -> Sequence[Message]:
        return (Message("system", job.prompt.text), *turns)

    def limit(self, job: GenerationJob) -> int:
        return job.max_tokens

    def temperature(self, request: GenerationRequest) -> float:
        return request.temperature

    def seed(self, job: GenerationJob, request: GenerationRequest, turn: int) -> int:
        return derive(job.seed, request.id, turn)

    def complete(self, replies: Sequence[Reply]) -> bool:
        return replies[-1].complete

    def meta(self, request: GenerationRequest) -> dict[str, str | int | float | None]:
        return {"temperature": request.temperature, "model": "toy"}


class GoodWithoutSeeds(GoodService):
    """Of a service that takes no seed."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__(broken)
        self.calls = count()

    def seed(self, job: GenerationJob, request: GenerationRequest, turn: int) -> int:
        return next(self.calls)


class GoodWithoutPrices(GoodService):
    """Of a service whose prices nobody knows."""

    priced = False


class GoodInBatches(GoodService):
    """Holds for five requests at a time."""

    def made(self, job: GenerationJob, key: str) -> Answers:
        wanted = left(job)
        for start in range(0, len(wanted), 5):
            batch = wanted[start : start + 5]
            usage = sum((self.at_most(job, request) for request in batch), Usage())
            held = job.budget.reserve("sample", usage)
            replies = [self.talk(job, request, key) for request in batch]
            held.commit(sum(map(total, replies), Usage()))
            for request, found in zip(batch, replies, strict=True):
                yield self.answered(job, request, found)


class GoodAndChoosy(GoodService):
    """Leaves out what was cut."""

    def answered(
        self, job: GenerationJob, request: GenerationRequest, replies: Sequence[Reply]
    ) -> Conversation | Rejection:
        if all(reply.complete for reply in replies):
            return super().answered(job, request, replies)
        return Rejection(request.id, request.query.id, "it was cut", replies[-1].text)


class GoodShelf:
    """Hands out what it has: two answers to each of its queries."""

    def queries(self) -> Sequence[Query]:
        return tuple(
            Query(f"shelf-{number}", self.asked(text))
            for number, text in enumerate(("What is a tide?", "Who are you?", "Say hm."))
        )

    def asked(self, text: str) -> tuple[Message, ...]:
        return (Message("user", text),)

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        return CostEstimate(Usage(), priced=True, seconds=0.0)

    def generate(self, job: GenerationJob) -> Answers:
        return (each for each in self.stored() if each.id not in job.completed_ids)

    def stored(self) -> Sequence[Conversation]:
        return [
            Conversation(
                f"{query.id}-{n}", self.query_id(query), (*query.messages, *self.answer(n))
            )
            for query in self.queries()
            for n in range(2)
        ]

    def query_id(self, query: Query) -> str:
        return query.id

    def answer(self, number: int) -> tuple[Message, ...]:
        return (Message("assistant", f"Arr, {number} of them."),)


def left(job: GenerationJob) -> list[GenerationRequest]:
    """What is not done."""
    return [request for request in job.requests if request.id not in job.completed_ids]


def total(replies: Sequence[Reply]) -> Usage:
    """What they cost."""
    return sum((reply.usage for reply in replies), Usage())
