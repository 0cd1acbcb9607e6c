"""The teacher `openai`: prompt log-probabilities of an endpoint such as vLLM's /completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import openai
import torch

from promptbake import (
    BakeError,
    Model,
    Span,
    TeacherLogprobs,
    gather,
    run_in_thread,
)
from promptbake_openai.adaptive_limit import AdaptiveLimit
from promptbake_openai.answers import (
    InvalidResponseError,
    LogprobAnswer,
    LogprobRow,
    parse_answer,
)
from promptbake_openai.chat import ATTEMPTS
from promptbake_openai.endpoint import Endpoint
from promptbake_openai.failures import RequestFailures
from promptbake_openai.prompt_logprobs import PositionLogprobs, top_k_tensors
from promptbake_openai.vocabulary import TokenizerError, Vocabulary

ROUNDING = 1e-3  # nats by which the log of the sum of probabilities may exceed 0
UNSUPPORTED = (400, 404, 405, 422)  # statuses of an endpoint that does not know the request


class OpenAITeacher:
    """One request a conversation, many in flight, to the endpoints in turn.

    The first request to each endpoint is sent alone, so that what cannot work costs one.
    """

    samples_tail = False

    def __init__(self, endpoints: Sequence[Endpoint], *, concurrency: int) -> None:
        self._endpoints, self._concurrency = endpoints, concurrency

    def score(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """Yield each span's log-probabilities as they are received; there are no draws."""
        if draws:
            raise BakeError(
                "teacher.source = 'openai': draws no tokens from the tail; set train.tail=bucket"
            )
        for endpoint in self._endpoints:
            endpoint.check_key()
        return self._results(LogprobRequest(spans, k, Vocabulary(open_model())))

    def _results(self, request: LogprobRequest) -> Iterator[tuple[int, TeacherLogprobs]]:
        if not request.spans:
            return
        try:
            probe = request.probe_index()
            probed = [self._probe(request, probe, endpoint) for endpoint in self._endpoints]
            yield probe, probed[0]
            yield from self._others(request, probe)
        finally:
            for endpoint in self._endpoints:
                endpoint.close()

    def _probe(self, request: LogprobRequest, index: int, endpoint: Endpoint) -> TeacherLogprobs:
        response = request.send(index, endpoint)
        if response.problem:
            advice = f"; {requirements(request.k)}" if response.unsupported else ""
            raise BakeError(response.problem + advice)
        return request.parse(index, response)

    def _others(self, request: LogprobRequest, probe: int) -> Iterator[tuple[int, TeacherLogprobs]]:
        indices = [index for index in range(len(request.spans)) if index != probe]
        failures = RequestFailures("conversations", "were not scored")
        limit = AdaptiveLimit(self._concurrency)

        def submit(number: int) -> Future[LogprobResponse]:
            endpoint = self._endpoints[number % len(self._endpoints)]
            return run_in_thread(lambda: request.send(indices[number], endpoint))

        def read(number: int, response: LogprobResponse) -> TeacherLogprobs | None:
            tokens = len(request.spans[indices[number]].tokens)
            congestion = sum(endpoint.congestion for endpoint in self._endpoints)
            limit.record(0.0 if response.problem else response.seconds, tokens, congestion)
            try:
                scores = request.parse(indices[number], response)
            except TokenizerError:
                raise
            except BakeError as error:
                failures.add(str(error), response.permanent)
                return None
            failures.reset()
            return scores

        results = gather(
            len(indices),
            submit,
            read,
            lambda _, error: error if isinstance(error, Exception) else BakeError(str(error)),
            lambda number: BakeError(f"{request.label(indices[number])}: no response"),
            limit=limit,
        )
        yield from ((indices[number], scores) for number, scores in results if scores is not None)
        failures.check(len(request.spans))


def requirements(k: int) -> str:
    """What an endpoint must be able to do."""
    return (
        "teacher.source = 'openai' needs an endpoint that returns prompt_logprobs for a prompt of "
        "token ids, as vLLM's /completions does, and from vLLM --max-logprobs of at least "
        f"teacher.top_k = {k} (it is 20 unless set)"
    )


@dataclass(frozen=True)
class LogprobResponse:
    """A response: its `prompt_logprobs` as received, or the reason why there are none."""

    url: str
    rows: Sequence[LogprobRow | None] | None = None
    seconds: float = 0.0  # that the request took
    problem: str = ""
    permanent: bool = False  # whether every other request would fail, too
    unsupported: bool = False  # whether the endpoint may not know the request


@dataclass(frozen=True)
class LogprobRequest:
    """The spans to score, how each is requested, and how its response is read."""

    spans: Sequence[Span]
    k: int
    vocabulary: Vocabulary

    def probe_index(self) -> int:
        """The shortest span with a token that can be compared. Raises BakeError without one."""
        comparable = [
            index
            for index, span in enumerate(self.spans)
            if any(map(self.vocabulary.is_comparable, span.tokens[-span.n_response :]))
        ]
        if not comparable:
            raise BakeError(
                "no response has a token that is a whole character, so that the endpoint's "
                "tokenizer cannot be compared with the student's; use teacher.source = 'self'"
            )
        return min(comparable, key=lambda index: len(self.spans[index].tokens))

    def label(self, index: int) -> str:
        """The span's name, for a message."""
        return self.spans[index].name or "a sequence"

    def send(self, index: int, endpoint: Endpoint) -> LogprobResponse:
        """Request a span's prompt_logprobs; again, where the response holds no completion."""
        began, problem = time.monotonic(), ""
        for _ in range(ATTEMPTS):
            try:
                body = endpoint.complete(self.spans[index].tokens, {"prompt_logprobs": self.k})
                answer = parse_answer(LogprobAnswer, body)
                seconds = time.monotonic() - began
                return LogprobResponse(endpoint.url, answer.choices[0].prompt_logprobs, seconds)
            except openai.OpenAIError as error:
                problem, permanent = endpoint.explain(error)
                status = error.status_code if isinstance(error, openai.APIStatusError) else None
                return LogprobResponse(
                    endpoint.url,
                    problem=problem,
                    permanent=permanent,
                    unsupported=status in UNSUPPORTED,
                )
            except InvalidResponseError as error:
                problem = f"{endpoint.url}: responded with {error}"
        return LogprobResponse(endpoint.url, problem=problem)

    def parse(self, index: int, response: LogprobResponse) -> TeacherLogprobs:
        """A span's log-probabilities. Raises BakeError that names the conversation."""
        span, name = self.spans[index], self.label(index)
        source = f"{name}: {response.url}"
        if response.problem:
            raise BakeError(f"{name}: {response.problem}")
        if response.rows is None:
            raise BakeError(f"{source} returns no prompt_logprobs; {requirements(self.k)}")
        if len(response.rows) != len(span.tokens):
            raise BakeError(
                f"{source} returns {len(response.rows)} rows of prompt_logprobs for "
                f"{len(span.tokens)} tokens"
            )
        rows = list(zip(span.tokens, response.rows, strict=True))[-span.n_response :]
        positions = [PositionLogprobs.of(token, row, source) for token, row in rows]
        self._check_texts(span, positions, response.url)
        ids, logprobs = top_k_tensors(positions, self.k, response.url)
        if bool((logprobs.logsumexp(dim=1) > ROUNDING).any()):
            raise BakeError(
                f"{source} returns numbers that are no log-probabilities; from vLLM, "
                "--logprobs-mode raw_logprobs returns them"
            )
        nothing = torch.zeros(len(ids), 0)
        return TeacherLogprobs(ids, logprobs, nothing.long(), nothing, nothing)

    def _check_texts(self, span: Span, positions: Sequence[PositionLogprobs], url: str) -> None:
        self.vocabulary.check(span, [position.text for position in positions], url)
        alternatives = {
            (entry.token, entry.text) for position in positions for entry in position.entries
        }
        self.vocabulary.check_alternatives(alternatives, span.name or "a sequence", url)
