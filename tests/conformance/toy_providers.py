"""Good data providers: of the base model, of a paid service, and of what is stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from promptbake.costs import NO_COST, CostEstimate, Reservation, Usage
from promptbake.dataset.sampling import estimate_responses, sample_responses
from promptbake.errors import BakeError
from promptbake.interfaces import GenerationJob, Model, no_progress
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


class Good:
    """Samples the prompted base model."""

    def queries(self) -> Sequence[Query]:
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        return estimate_responses(job)

    def generate(self, job: GenerationJob) -> Items:
        return sample_responses(job)


class GoodBestOfTwo(Good):
    """Samples two responses a request, and keeps the longer one."""

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        return super().estimate_cost(job) + super().estimate_cost(job)

    def generate(self, job: GenerationJob) -> Items:
        job = replace(job, progress=no_progress)
        both = sample_responses(job), sample_responses(replace(job, seed=derive(job.seed)))
        return (max(pair, key=lambda each: len(each.response)) for pair in zip(*both, strict=True))


class Sampler:
    """A model whose `sample` is changed: `change` is given the good one and its arguments."""

    def __init__(self, model: Model, change: Callable[..., Any]) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def sample(self, prompts: Sequence[TokenIds], **options: Any) -> Any:
        return self._change(self._model.sample, prompts, **options)


class GoodStream(Good):
    """Takes the tokens as they come."""

    def generate(self, job: GenerationJob) -> Items:
        model = job.open_model()

        def streamed(
            good: Any, prompts: Any, max_tokens: int, temperatures: Any, seeds: Any, progress: Any
        ) -> Iterator[tuple[int, Completion]]:
            for index, (prompt, heat, seed) in enumerate(
                zip(prompts, temperatures, seeds, strict=True)
            ):
                chunks = list(
                    model.stream(prompt, max_tokens=max_tokens, temperature=heat, seed=seed)
                )
                tokens = tuple(token for chunk in chunks for token in chunk.tokens)
                yield index, Completion(tokens, chunks[-1].stop_reason == "stop")

        return sample_responses(replace(job, open_model=lambda: Sampler(model, streamed)))


class GoodAndTidy(Good):
    """Strips its answers, and leaves out what is too short."""

    def generate(self, job: GenerationJob) -> Items:
        return map(self.tidied, sample_responses(job))

    def tidied(self, whole: Conversation) -> Conversation | Rejection:
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


class GoodService:
    """Asks the service, which is paid by the token."""

    priced = True
    kind = "sample"

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def queries(self) -> Sequence[Query]:
        return ()

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
            yield self.conversation(request, replies)

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
        read = len(job.prompt.text) + sum(len(each.content) for each in request.query.messages)
        calls = 2 * job.turns - 1
        read, output = (read + job.max_tokens * calls) * calls, job.max_tokens * calls
        dollars = (read + output) * DOLLARS * self.priced
        return Usage(calls, read, output_tokens=output, dollars=dollars)

    def talk(self, job: GenerationJob, request: GenerationRequest, key: str) -> list[Reply]:
        """The answers, and between them what the user says."""
        turns = list(request.query.messages)
        if job.prompt.system:
            turns.insert(0, Message("system", job.prompt.system))
        replies = list[Reply]()
        for turn in range(2 * job.turns - 1):
            seed = derive(job.seed, request.id, turn)
            sent = "nobody's" if self.broken else key
            try:
                replies.append(serve(sent, turns, request.temperature, job.max_tokens, seed))
            except ConnectionError as error:
                raise self.failed(error, key) from None
            turns.append(Message("user", replies[-1].text))
        return replies

    def conversation(self, request: GenerationRequest, replies: Sequence[Reply]) -> Conversation:
        turns = list(request.query.messages)
        for place, reply in enumerate(replies):
            turns.append(Message("user" if place % 2 else "assistant", reply.text))
        meta = {"temperature": request.temperature, "model": "toy"}
        complete = replies[-1].complete
        return Conversation(request.id, request.query.id, tuple(turns), complete, meta)


class GoodWithoutSeeds(GoodService):
    """Of a service that takes no seed."""

    calls = count()

    def generate(self, job: GenerationJob) -> Items:
        return super().generate(replace(job, seed=next(self.calls)))


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
            yield from map(self.conversation, batch, replies)


class GoodAndChoosy(GoodService):
    """Leaves out what was cut."""

    def items(self, job: GenerationJob, key: str) -> Items:
        for each in super().items(job, key):
            assert isinstance(each, Conversation)
            cut = Rejection(each.id, each.query_id, "it was cut", each.response)
            yield each if each.complete else cut


class GoodShelf:
    """Hands out what it has: two answers to each of its queries."""

    def queries(self) -> Sequence[Query]:
        texts = ("What is a tide?", "Who are you?", "Say hm.")
        return [Query(f"shelf-{n}", (Message("user", text),)) for n, text in enumerate(texts)]

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        return NO_COST

    def generate(self, job: GenerationJob) -> Items:
        return (each for each in self.stored() if each.id not in job.completed_ids)

    def stored(self) -> Sequence[Conversation]:
        return [
            Conversation(f"{query.id}-{n}", query.id, (*query.messages, self.answer(n)))
            for query in self.queries()
            for n in range(2)
        ]

    def answer(self, number: int) -> Message:
        return Message("assistant", f"Arr, {number} of them.")
