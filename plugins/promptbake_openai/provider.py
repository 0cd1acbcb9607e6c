"""A data provider that requests responses from chat endpoints, with bounded concurrency."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from promptbake import (
    BakeError,
    Conversation,
    CostEstimate,
    GenerationJob,
    GenerationRequest,
    Query,
    Rejection,
    Reservation,
    Usage,
    gather,
    run_in_thread,
)
from promptbake_openai.adaptive_limit import AdaptiveLimit
from promptbake_openai.chat import ChatOutcome, Conversing, max_usage
from promptbake_openai.completions import ASKS, REASONING
from promptbake_openai.endpoint import Endpoint
from promptbake_openai.failures import MAX_IN_A_ROW, RESUME, RequestFailures
from promptbake_openai.prices import Prices

DEADLINE = 1800.0  # seconds in which at least one request must end


class ChatProvider:
    """The prompted model behind one or several chat endpoints, which take requests in turn.

    Args:
        endpoints: At least one.
        prices: The model's prices, None where they are unknown; called before the first request.
        options: Where the provider's options are set, such as `options.data_providers.openai`.
        concurrency: The most requests in flight, over all endpoints.
        drop_truncated: Whether responses that max_tokens cut are left out.
        same_model: Whether the endpoints' model is the baked one, whatever its name is.
        check: Raises BakeError for a job that cannot be done, before anything is sent.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        prices: Callable[[], Prices | None],
        *,
        options: str,
        concurrency: int,
        drop_truncated: bool = False,
        same_model: bool = False,
        check: Callable[[GenerationJob], None] = lambda job: None,
    ) -> None:
        self._endpoints, self._prices, self._check = endpoints, prices, check
        self._concurrency, self._drop_truncated = concurrency, drop_truncated
        self._options, self._same_model = options, same_model

    def queries(self) -> Sequence[Query]:
        """None of its own."""
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """The worst case: every response as long as max_tokens allows."""
        prices = self._prices()
        usage = sum((max_usage(request, job) for request in _missing(job)), Usage())
        if prices is None:
            return CostEstimate(usage, priced=False, seconds=None)
        return CostEstimate(prices.apply(usage), priced=True, seconds=None, source=prices.source)

    def generate(self, job: GenerationJob) -> Iterator[Conversation | Rejection]:
        """Yield each response as it is received.

        Raises:
            BakeError: At once, where there is no key, another model than the baked one, or a
                budget without known prices.
        """
        for endpoint in self._endpoints:
            endpoint.check_key()
        self._check_model(job.model_name)
        self._check(job)
        prices = self._prices()
        if prices is None and job.budget.capped:
            raise BakeError(
                f"budget.max_dollars: the prices of {self._endpoints[0].model} are unknown; set "
                "the provider's option prices={prompt=..., completion=...}, in dollars per "
                "million tokens"
            )
        return _Generation(
            job, self._endpoints, prices, self._concurrency, self._drop_truncated
        ).results()

    def _check_model(self, baked: str) -> None:
        """Refuse a model with another name than the baked one's; owners and paths may differ."""
        model = self._endpoints[0].model
        names = {name.rstrip("/").rpartition("/")[2].casefold() for name in (model, baked)}
        if self._same_model or not baked or len(names) == 1:
            return
        raise BakeError(
            f"{self._options}.model = {model!r}: another model is baked (model.name = {baked!r}), "
            "which would learn this one's responses; set one of the two to the other, or, where "
            f"both name the same model, set {self._options}.same_model=true"
        )


@dataclass
class ProgressStats:
    """The counts that are shown behind the progress bar."""

    started: float = field(default_factory=time.monotonic)
    in_flight: int = 0
    rejected: int = 0
    retries: int = 0  # of responses without a completion; the endpoints count the client's
    tokens: int = 0
    dollars: float = 0.0

    def line(self, client_retries: int) -> str:
        """The counts on one line."""
        rate = self.tokens / max(time.monotonic() - self.started, 1e-9)
        retries = client_retries + self.retries
        parts = [f"{self.in_flight} in flight", f"{rate:.0f} tokens/s"]
        parts += [f"{self.rejected} rejected"] if self.rejected else []
        parts += [f"{retries} retried"] if retries else []
        parts += [f"${self.dollars:.4f}"] if self.dollars else []
        return ", ".join(parts)


class _RejectedError(Exception):
    """A completion is not kept, and the request is to be sent again."""

    def __init__(self, outcome: ChatOutcome) -> None:
        super().__init__(outcome.rejection)
        self.outcome = outcome


class _Generation:
    """One call of `generate`."""

    def __init__(
        self,
        job: GenerationJob,
        endpoints: Sequence[Endpoint],
        prices: Prices | None,
        concurrency: int,
        drop_truncated: bool,
    ) -> None:
        self._job, self._endpoints, self._prices = job, endpoints, prices
        self._limit, self._drop_truncated = AdaptiveLimit(concurrency), drop_truncated
        self._requests = _missing(job)
        self._reservations: dict[int, Reservation] = {}
        self._seen_responses = set(job.seen_responses)
        self._stats = ProgressStats()
        self._failures = RequestFailures("requests", "failed")
        self._asks = Counter[int]()  # by the request's index: how often it was asked again
        self._only_reasoning = 0  # responses in a row

    def results(self) -> Iterator[Conversation | Rejection]:
        """The result of each request that is not completed."""
        for endpoint in self._endpoints:
            _ = endpoint.client  # before several threads want it at once
        results = gather(
            len(self._requests),
            self._submit,
            self._read,
            self._failed,
            self._no_response,
            limit=self._limit,
            deadline=DEADLINE,
        )
        try:
            yield from (result for _, result in results if result is not None)
        finally:
            for endpoint in self._endpoints:
                endpoint.close()
        self._failures.check(len(self._requests))

    def _endpoint(self, index: int) -> Endpoint:
        return self._endpoints[index % len(self._endpoints)]

    def _no_response(self, index: int) -> BakeError:
        return BakeError(
            f"{self._endpoint(index).url}: no response to any request in {DEADLINE:g} seconds; its "
            f"rate limit may ask for a longer pause; {RESUME}"
        )

    def _submit(self, index: int) -> Future[ChatOutcome]:
        request, endpoint = self._requests[index], self._endpoint(index)
        usage = self._priced(max_usage(request, self._job))
        self._reservations[index] = self._job.budget.reserve("sample", usage)
        self._stats.in_flight += 1
        self._show_stats()
        ask = self._asks[index]
        exchange = Conversing(request, self._job, endpoint, self._drop_truncated, ask)

        def run() -> ChatOutcome:
            outcome = exchange.run()
            if not outcome.problem and ask + 1 < ASKS.get(outcome.rejection, 1):
                raise _RejectedError(outcome)
            return outcome

        return run_in_thread(run)

    def _failed(self, index: int, error: BaseException) -> Exception | None:
        """None where the request is to be sent again, with another seed."""
        if not isinstance(error, _RejectedError):
            return error if isinstance(error, Exception) else BakeError(str(error))
        self._commit(index, error.outcome)
        self._asks[index] += 1
        self._stats.retries += 1
        return None

    def _commit(self, index: int, outcome: ChatOutcome) -> Usage:
        usage = self._billed(outcome)
        self._reservations[index].commit(usage)
        self._stats.in_flight -= 1
        self._stats.retries += outcome.retries
        self._stats.tokens += usage.output_tokens
        self._stats.dollars += usage.dollars
        congestion = sum(endpoint.congestion for endpoint in self._endpoints)
        seconds = 0.0 if outcome.problem else outcome.seconds
        self._limit.record(seconds, usage.output_tokens, congestion)
        return usage

    def _read(self, index: int, outcome: ChatOutcome) -> Conversation | Rejection | None:
        usage = self._commit(index, outcome)
        if outcome.problem:
            self._failures.add(outcome.problem, outcome.permanent)
            return None
        self._check_reasoning(outcome)
        self._failures.reset()
        result = self._result(self._requests[index], outcome, usage)
        self._stats.rejected += isinstance(result, Rejection)
        self._show_stats()
        return result

    def _result(
        self, request: GenerationRequest, outcome: ChatOutcome, usage: Usage
    ) -> Conversation | Rejection:
        last, text = outcome.completions[-1], outcome.turns[-1].content
        if outcome.rejection:
            return Rejection(request.id, request.query.id, outcome.rejection, last.text)
        if (request.query.id, text) in self._seen_responses:
            reason = "it is identical to an earlier one"
            return Rejection(request.id, request.query.id, reason, text)
        self._seen_responses.add((request.query.id, text))
        meta = {
            "model": self._endpoints[0].model,
            "provider": last.provider,
            "temperature": request.temperature,
            "tokens": usage.output_tokens,
            "dollars": usage.dollars,
            "seconds": round(outcome.seconds, 3),
            "request_id": last.id,
            "category": request.query.category,
        }
        complete = last.finish_reason != "length"
        return Conversation(request.id, request.query.id, outcome.turns, complete, meta)

    def _check_reasoning(self, outcome: ChatOutcome) -> None:
        """Stop where nothing but reasoning is received: more of it would cost and give nothing."""
        self._only_reasoning = self._only_reasoning + 1 if outcome.rejection == REASONING else 0
        if self._only_reasoning >= MAX_IN_A_ROW:
            raise BakeError(
                f"{self._only_reasoning} responses in a row are reasoning alone: data.max_tokens = "
                f"{self._job.max_tokens} cuts them before an answer begins; raise it, or switch "
                "reasoning off by the provider's option body, such as "
                "body={chat_template_kwargs={enable_thinking=false}}"
            )

    def _billed(self, outcome: ChatOutcome) -> Usage:
        """The usage of all completions, at the cost that the endpoint reports, or by the prices."""
        usage = Usage(
            calls=len(outcome.completions),
            input_tokens=sum(each.prompt_tokens for each in outcome.completions),
            output_tokens=sum(each.completion_tokens for each in outcome.completions),
        )
        dollars = [each.dollars for each in outcome.completions if each.dollars is not None]
        if dollars and len(dollars) == usage.calls:
            return replace(usage, dollars=sum(dollars))
        return self._priced(usage)

    def _priced(self, usage: Usage) -> Usage:
        return self._prices.apply(usage) if self._prices else usage

    def _show_stats(self) -> None:
        self._job.note(self._stats.line(sum(endpoint.retries for endpoint in self._endpoints)))


def _missing(job: GenerationJob) -> list[GenerationRequest]:
    return [request for request in job.requests if request.id not in job.completed_ids]
