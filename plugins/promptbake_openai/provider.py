"""A data provider that asks chat endpoints: bounded concurrency, honest about money, calm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import openai

from promptbake import (
    BakeError,
    Conversation,
    CostEstimate,
    GenerationJob,
    GenerationRequest,
    Message,
    Query,
    Rejection,
    Reservation,
    Role,
    Usage,
    derive,
    gather,
    run_in_thread,
)
from promptbake_openai import answers
from promptbake_openai.answers import Answer, UnusableError
from promptbake_openai.endpoint import Endpoint
from promptbake_openai.prices import Prices

ATTEMPTS = 5  # at an answer that is no completion; lost requests are the client's to repeat
PATIENCE = 1800.0  # seconds in which at least one request must end
GIVE_UP = 5  # requests in a row that failed for good
USER_HEAT = 1.0  # the simulated user's temperature
USER = Message(
    "system",
    "You play the user of a chat assistant. The assistant's messages come to you as the other "
    "side's. Write the user's next message and nothing else: a follow-up question, a doubt or a "
    "new request, short and natural.",
)


@dataclass
class Tally:
    """What a person sees behind the bar while answers come in."""

    started: float = field(default_factory=time.monotonic)
    under_way: int = 0
    rejected: int = 0
    retried: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def note(self, retried: int) -> str:
        """The counts on one line."""
        rate = self.tokens / max(time.monotonic() - self.started, 1e-9)
        parts = [f"{self.under_way} in flight", f"{rate:.0f} tokens/s"]
        parts += [f"{self.rejected} rejected"] if self.rejected else []
        parts += [f"{retried + self.retried} retried"] if retried + self.retried else []
        parts += [f"${self.dollars:.4f}"] if self.dollars else []
        return ", ".join(parts)


class ChatProvider:
    """The prompted model behind one or several chat endpoints. Public: other plugins build on it.

    Requests go to the endpoints in turn. `prices` is asked for when the first money is held.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        prices: Callable[[], Prices | None],
        *,
        concurrency: int,
        allow_truncated: bool,
        check: Callable[[GenerationJob], None] = lambda job: None,
    ) -> None:
        self._endpoints, self._prices, self._check = endpoints, prices, check
        self._concurrency, self._allow_truncated = concurrency, allow_truncated

    def queries(self) -> Sequence[Query]:
        """None of its own."""
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """Every response at its longest."""
        prices = self._prices()
        wanted = [request for request in job.requests if request.id not in job.completed_ids]
        usage = sum((at_most(request, job) for request in wanted), Usage())
        if prices is None:
            return CostEstimate(usage, priced=False, seconds=None)
        return CostEstimate(prices.priced(usage), priced=True, seconds=None, source=prices.source)

    def generate(self, job: GenerationJob) -> Iterator[Conversation | Rejection]:
        """Each answer as it comes. What cannot work is refused at once."""
        for endpoint in self._endpoints:
            endpoint.check()
        self._check(job)
        prices = self._prices()
        if prices is None and job.budget.capped:
            raise BakeError(
                f"budget.max_dollars: the prices of {self._endpoints[0].model} are not known; give "
                "them by the provider's option prices={prompt=..., completion=...}, in dollars per "
                "million tokens"
            )
        return _Run(job, self._endpoints, prices, self._concurrency, self._allow_truncated).made()


@dataclass(frozen=True)
class Talk:
    """What became of one request: turns with answers, or why there are none."""

    turns: tuple[Message, ...] = ()
    answers: tuple[Answer, ...] = ()
    seconds: float = 0.0
    retried: int = 0
    problem: str = ""
    final: bool = False  # whether no other request would fare better


class _Run:
    """One call of `generate`."""

    def __init__(
        self,
        job: GenerationJob,
        endpoints: Sequence[Endpoint],
        prices: Prices | None,
        concurrency: int,
        allow_truncated: bool,
    ) -> None:
        self._job, self._endpoints, self._prices = job, endpoints, prices
        self._concurrency, self._allow_truncated = concurrency, allow_truncated
        self._wanted = [request for request in job.requests if request.id not in job.completed_ids]
        self._holds: dict[int, Reservation] = {}
        self._seen = set(job.seen_responses)
        self._tally = Tally()
        self._problems = list[str]()
        self._in_a_row = 0

    def made(self) -> Iterator[Conversation | Rejection]:
        """What comes of each request that is not done."""
        for endpoint in self._endpoints:
            _ = endpoint.client  # before several threads want it at once
        found = gather(
            len(self._wanted),
            self._submit,
            self._read,
            lambda _, error: error if isinstance(error, Exception) else BakeError(str(error)),
            self._late,
            limit=self._concurrency,
            deadline=PATIENCE,
        )
        try:
            yield from (outcome for _, outcome in found if outcome is not None)
        finally:
            for endpoint in self._endpoints:
                endpoint.close()
        if self._problems:
            raise BakeError(
                f"{len(self._problems)} of {len(self._wanted)} requests failed, the last with: "
                f"{self._problems[-1]}; the others are kept, and the same command asks for these "
                "again"
            )

    def _late(self, index: int) -> BakeError:
        url = self._endpoints[index % len(self._endpoints)].url
        return BakeError(
            f"{url}: no answer to anything in {PATIENCE:g} seconds; it may have asked to be left "
            "alone for longer. What was answered is kept, and the same command goes on"
        )

    def _submit(self, index: int) -> Future[Talk]:
        request, endpoint = self._wanted[index], self._endpoints[index % len(self._endpoints)]
        usage = at_most(request, self._job)
        priced = self._prices.priced(usage) if self._prices else usage
        self._holds[index] = self._job.budget.reserve("sample", priced)
        self._tally.under_way += 1
        self._show()
        return run_in_thread(lambda: talk(request, self._job, endpoint))

    def _read(self, index: int, found: Talk) -> Conversation | Rejection | None:
        self._tally.under_way -= 1
        self._tally.retried += found.retried
        usage = self._paid(found)
        self._holds[index].commit(usage)
        self._tally.tokens += usage.output_tokens
        self._tally.dollars += usage.dollars
        if found.problem:
            self._fail(found)
            return None
        self._in_a_row = 0
        outcome = self._kept(self._wanted[index], found, usage)
        self._tally.rejected += isinstance(outcome, Rejection)
        self._show()
        return outcome

    def _fail(self, found: Talk) -> None:
        self._problems.append(found.problem)
        self._in_a_row += 1
        if found.final:
            raise BakeError(found.problem)
        if self._in_a_row >= GIVE_UP:
            raise BakeError(
                f"{self._in_a_row} requests in a row failed for good, the last with: "
                f"{found.problem}; what was answered is kept, and the same command goes on"
            )

    def _kept(
        self, request: GenerationRequest, found: Talk, usage: Usage
    ) -> Conversation | Rejection:
        last = found.answers[-1]
        said = found.answers[::2]  # between them, the simulated user's
        reasons = [answers.rejects(answer, self._allow_truncated) for answer in said]
        reason = next((reason for reason in reasons if reason), None)
        text = found.turns[-1].content
        if reason is None and (request.query.id, text) in self._seen:
            reason = "it is identical to an earlier one"
        if reason is not None:
            return Rejection(request.id, request.query.id, reason, last.text)
        self._seen.add((request.query.id, text))
        meta = {
            "model": self._endpoints[0].model,
            "provider": last.provider,
            "temperature": request.temperature,
            "tokens": usage.output_tokens,
            "dollars": usage.dollars,
            "seconds": round(found.seconds, 3),
            "request_id": last.id,
            "category": request.query.category,
        }
        complete = last.finish_reason != "length"
        return Conversation(request.id, request.query.id, found.turns, complete, meta)

    def _paid(self, found: Talk) -> Usage:
        """Of all answers; what the endpoint says it cost, or what the prices make of the tokens."""
        usage = Usage(
            calls=len(found.answers),
            input_tokens=sum(answer.prompt_tokens for answer in found.answers),
            output_tokens=sum(answer.completion_tokens for answer in found.answers),
        )
        told = [answer.dollars for answer in found.answers]
        if told and all(dollars is not None for dollars in told):
            return replace(usage, dollars=sum(dollars or 0.0 for dollars in told))
        return self._prices.priced(usage) if self._prices else usage

    def _show(self) -> None:
        retried = sum(endpoint.repeated for endpoint in self._endpoints)
        self._job.note(self._tally.note(retried))


def talk(request: GenerationRequest, job: GenerationJob, endpoint: Endpoint) -> Talk:
    """Ask for one request's response, and in longer conversations for what the user says next."""
    began = time.monotonic()
    turns, found, retried = list(request.query.messages), list[Answer](), 0
    try:
        for turn in range(job.turns):
            if turn:
                seed = derive(job.seed, "user", request.id, turn)
                said, again = _asked(endpoint, (USER, *swapped(turns)), USER_HEAT, seed, job)
                retried += again
                found.append(said)
                turns.append(Message("user", answers.without_thinking(said.text) or "Go on."))
            system = Message("system", job.prompt.text)
            seed = derive(job.seed, "response", request.id, turn)
            answer, again = _asked(endpoint, (system, *turns), request.temperature, seed, job)
            retried += again
            found.append(answer)
            turns.append(Message("assistant", answers.without_thinking(answer.text) or ""))
    except UnusableError as error:
        problem = f"{endpoint.url}: answered with {error}"
        return Talk(answers=tuple(found), problem=problem, retried=ATTEMPTS - 1)
    except openai.OpenAIError as error:
        problem, final = endpoint.explained(error)
        return Talk(answers=tuple(found), problem=problem, final=final)
    return Talk(tuple(turns), tuple(found), time.monotonic() - began, retried)


def swapped(turns: Sequence[Message]) -> list[Message]:
    """The conversation as the other side sees it."""
    other: dict[Role, Role] = {"user": "assistant", "assistant": "user", "system": "system"}
    return [Message(other[turn.role], turn.content) for turn in turns]


def at_most(request: GenerationRequest, job: GenerationJob) -> Usage:
    """What a request may come to: every response at its longest, and read again in later turns."""
    text = [job.prompt.text, *(message.content for message in request.query.messages)]
    # No tokenizer makes more tokens of a text than it has bytes; a turn's frame takes a few.
    read = sum(len(part.encode()) + 8 for part in text)
    calls = 2 * job.turns - 1  # the answers, and the user's turns in between
    grown = job.max_tokens * calls * (calls - 1) // 2
    return Usage(calls, input_tokens=read * calls + grown, output_tokens=job.max_tokens * calls)


def _asked(
    endpoint: Endpoint,
    messages: Sequence[Message],
    temperature: float,
    seed: int,
    job: GenerationJob,
) -> tuple[Answer, int]:
    """A completion, and how many answers before it were none. Raises UnusableError, OpenAIError."""
    for attempt in range(ATTEMPTS):
        body = endpoint.ask(messages, temperature, job.max_tokens, seed)
        try:
            return answers.read(body), attempt
        except UnusableError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")
