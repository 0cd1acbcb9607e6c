"""Good data providers: of the base model, of a paid service, and of what is stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from promptbake.costs import NO_COST, CostEstimate, Reservation, SampleWork, Usage
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
)

Items = Iterator[Conversation | Rejection]
KEY, VALUE = "TOY_API_KEY", "toy-key-27b0"
DOLLARS = 1e-6  # a token
LONGEST = 16  # words of an answer of the service


def left(job: GenerationJob) -> list[GenerationRequest]:
    """What is not completed."""
    return [request for request in job.requests if request.id not in job.completed_ids]


class Sampling:
    """What is the same for the base model and for a service."""

    def queries(self) -> Sequence[Query]:
        return ()

    def limit(self, job: GenerationJob) -> int:
        return job.max_tokens

    def temperature(self, request: GenerationRequest) -> float:
        return request.temperature

    def seed(self, job: GenerationJob, request: GenerationRequest, turn: int = 0) -> int:
        return derive(job.seed, "toy", request.id, turn)

    def complete(self, last: Any) -> bool:
        return bool(last.complete)

    def meta(self, job: GenerationJob, request: GenerationRequest) -> dict[str, Any]:
        return {"temperature": request.temperature, "category": request.query.category}

    def messages(
        self, job: GenerationJob, request: GenerationRequest, *texts: str
    ) -> tuple[Message, ...]:
        roles = [("assistant", "user")[place % 2] for place in range(len(texts))]
        return (*request.query.messages, *map(Message, roles, texts))  # type: ignore[arg-type]

    def conversation(
        self, job: GenerationJob, request: GenerationRequest, texts: Sequence[str], last: Any
    ) -> Conversation | Rejection:
        messages, meta = self.messages(job, request, *texts), self.meta(job, request)
        return Conversation(request.id, request.query.id, messages, self.complete(last), meta)


class Good(Sampling):
    """Samples the prompted base model, batch after batch."""

    times = 1  # that each response is sampled

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        model = job.open_model()
        rows = tuple((len(self.prompt(job, model, each)), job.max_tokens) for each in left(job))
        return model.estimate_cost(SampleWork(rows, times=self.times))

    def generate(self, job: GenerationJob) -> Items:
        if job.turns > 1:
            raise BakeError("data.turns: one answer a conversation is all there is")
        return self.items(job, job.open_model())

    def items(self, job: GenerationJob, model: Model) -> Items:
        size = model.sample_batch or len(job.requests)
        for start in range(0, len(job.requests), size):
            batch = job.requests[start : start + size]
            if self.is_wanted(job, batch):
                yield from self.sampled(job, model, batch)

    def is_wanted(self, job: GenerationJob, batch: Sequence[GenerationRequest]) -> bool:
        return any(request.id not in job.completed_ids for request in batch)

    def sampled(
        self, job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
    ) -> Items:
        for index, completion in model.sample(
            [self.prompt(job, model, request) for request in batch],
            max_tokens=self.limit(job),
            temperatures=[self.temperature(request) for request in batch],
            seeds=[self.seed(job, request) for request in batch],
            progress=job.progress,
        ):
            if batch[index].id not in job.completed_ids:
                yield self.answered(job, model, batch[index], completion)

    def answered(
        self, job: GenerationJob, model: Model, request: GenerationRequest, completion: Completion
    ) -> Conversation | Rejection:
        text = model.renderer.text(completion.tokens)
        return self.conversation(job, request, [text], completion)

    def prompt(self, job: GenerationJob, model: Model, request: GenerationRequest) -> TokenIds:
        return model.renderer.prompt(request.query.messages, job.prompt.system)


class GoodBestOfTwo(Good):
    """Samples two responses a request, and keeps the longer one."""

    times = 2

    def sampled(
        self, job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
    ) -> Items:
        for request in (each for each in batch if each in left(job)):
            responses = model.sample(
                [self.prompt(job, model, request)] * 2,
                max_tokens=job.max_tokens,
                temperatures=[request.temperature] * 2,
                seeds=[self.seed(job, request, attempt) for attempt in range(2)],
            )
            best = max((each for _, each in responses), key=lambda each: len(each.tokens))
            yield self.answered(job, model, request, best)


class GoodStream(Good):
    """Takes the tokens as they come."""

    def sampled(
        self, job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
    ) -> Items:
        for request in (each for each in batch if each in left(job)):
            chunks = list(
                model.stream(
                    self.prompt(job, model, request),
                    max_tokens=job.max_tokens,
                    temperature=request.temperature,
                    seed=self.seed(job, request),
                )
            )
            tokens = tuple(token for chunk in chunks for token in chunk.tokens)
            whole = Completion(tokens, complete=chunks[-1].stop_reason == "stop")
            yield self.answered(job, model, request, whole)


class GoodAndTidy(Good):
    """Strips its answers, and leaves out what is too short."""

    def answered(self, *args: Any) -> Conversation | Rejection:
        whole = super().answered(*args)
        assert isinstance(whole, Conversation)
        text = whole.response.strip()
        if len(text) < 2:
            return Rejection(whole.id, whole.query_id, "it is too short", whole.response)
        return replace(whole, messages=(*whole.messages[:-1], Message("assistant", text)))


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


class GoodService(Sampling):
    """Asks the service, which is paid by the token."""

    priced = True
    kind = "sample"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        usage = sum((self.at_most(job, request) for request in left(job)), Usage())
        return CostEstimate(usage, self.priced, None)

    def generate(self, job: GenerationJob) -> Items:
        self.check_cap(job)
        return self.items(job, self.key())

    def check_cap(self, job: GenerationJob) -> None:
        if job.budget.capped and not self.priced:
            raise BakeError("budget.max_dollars: the price is not known")

    def items(self, job: GenerationJob, key: str) -> Items:
        for request in left(job):
            reservation = self.reserve(job, request)
            try:
                replies = self.talk(job, request, key)
            except BakeError:
                reservation.commit(Usage())
                raise
            reservation.commit(self.billed(replies))
            job.note(f"{request.id} is here")
            yield self.answered(job, request, replies)

    def reserve(self, job: GenerationJob, request: GenerationRequest) -> Reservation:
        return job.budget.reserve(self.kind, self.at_most(job, request))

    def billed(self, replies: Sequence[Reply]) -> Usage:
        return sum((reply.usage for reply in replies), Usage())

    def key(self) -> str:
        if not os.environ.get(KEY):
            raise BakeError(f"{KEY}: is not set")
        return os.environ[KEY]

    def failed(self, error: ConnectionError, key: str) -> Exception:
        return BakeError("the service cannot be asked")

    def at_most(self, job: GenerationJob, request: GenerationRequest) -> Usage:
        turns = (Message("system", job.prompt.text), *request.query.messages)
        read = sum(len(each.content) for each in turns)
        calls = 2 * job.turns - 1
        grown = job.max_tokens * calls * calls
        dollars = ((read + job.max_tokens) * calls + grown) * DOLLARS * self.priced
        output_tokens = job.max_tokens * calls
        return Usage(calls, read * calls + grown, output_tokens=output_tokens, dollars=dollars)

    def talk(self, job: GenerationJob, request: GenerationRequest, key: str) -> list[Reply]:
        """The answers, and between them what the user says."""
        replies = list[Reply]()
        for turn in range(2 * job.turns - 1):
            said = tuple(Message("user", reply.text) for reply in replies)
            turns = self.sent(job, (*request.query.messages, *said))
            sampling = self.temperature(request), self.limit(job), self.seed(job, request, turn)
            try:
                replies.append(serve("nobody's" if self.broken else key, turns, *sampling))
            except ConnectionError as error:
                raise self.failed(error, key) from None
        return replies

    def answered(
        self, job: GenerationJob, request: GenerationRequest, replies: Sequence[Reply]
    ) -> Conversation | Rejection:
        return self.conversation(job, request, [reply.text for reply in replies], replies[-1])

    def sent(self, job: GenerationJob, turns: Sequence[Message]) -> Sequence[Message]:
        return (Message("system", job.prompt.text), *turns)


class GoodWithoutSeeds(GoodService):
    """Of a service that takes no seed."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__(broken)
        self.calls = count()

    def seed(self, job: GenerationJob, request: GenerationRequest, turn: int = 0) -> int:
        return next(self.calls)


class GoodWithoutPrices(GoodService):
    """Of a service whose prices nobody knows."""

    priced = False


class GoodInBatches(GoodService):
    """Reserves for five requests at a time."""

    def items(self, job: GenerationJob, key: str) -> Items:
        requests = left(job)
        for start in range(0, len(requests), 5):
            batch = requests[start : start + 5]
            usage = sum((self.at_most(job, request) for request in batch), Usage())
            reservation = job.budget.reserve(self.kind, usage)
            replies = [self.talk(job, request, key) for request in batch]
            reservation.commit(sum(map(self.billed, replies), Usage()))
            yield from map(self.answered, [job] * len(batch), batch, replies)


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
        texts = ("What is a tide?", "Who are you?", "Say hm.")
        return [Query(f"shelf-{n}", self.question(text)) for n, text in enumerate(texts)]

    def question(self, text: str) -> tuple[Message, ...]:
        return (Message("user", text),)

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        return NO_COST

    def generate(self, job: GenerationJob) -> Items:
        return (each for each in self.stored() if each.id not in job.completed_ids)

    def stored(self) -> Sequence[Conversation]:
        return [
            Conversation(f"{query.id}-{n}", query.id, (*query.messages, *self.answer(n)))
            for query in self.queries()
            for n in range(2)
        ]

    def answer(self, number: int) -> tuple[Message, ...]:
        return (Message("assistant", f"Arr, {number} of them."),)
