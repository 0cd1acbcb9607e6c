"""The teacher `openai`: prompt log-probabilities of an endpoint such as vLLM's /completions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import openai
import torch
from torch import Tensor

from promptbake import (
    BakeError,
    Model,
    Span,
    TeacherLogprobs,
    gather,
    mask_top_k_draws,
    response_token_as_draw,
    run_in_thread,
)
from promptbake_openai.answers import UnusableError
from promptbake_openai.endpoint import Endpoint
from promptbake_openai.provider import ATTEMPTS, GIVE_UP
from promptbake_openai.vocabulary import TokenizerError, Vocabulary

NOT_SCORED = -9999.0  # nats: what vLLM says for minus infinity
ROUNDING = 1e-3  # nats by which the sum of probabilities may pass 1
UNFIT = (400, 404, 405, 422)  # statuses of an endpoint that does not know what it is asked


class OpenAITeacher:
    """One request a conversation, many under way at a time, to the endpoints in turn.

    The first request to each endpoint goes out alone, so that what cannot work costs one.
    """

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
        """One `TeacherLogprobs` a span, as it comes.

        The endpoint draws nothing, so that `seeds` have no use: where draws are asked for, the
        response's own token is the one draw.
        """
        for endpoint in self._endpoints:
            endpoint.check()
        return self._found(Reading(spans, k, draws > 0, Vocabulary(open_model())))

    def _found(self, reading: Reading) -> Iterator[tuple[int, TeacherLogprobs]]:
        if not reading.spans:
            return
        try:
            probe = reading.probe()
            found = [self._probed(reading, probe, endpoint) for endpoint in self._endpoints]
            yield probe, found[0]
            yield from self._others(reading, probe)
        finally:
            for endpoint in self._endpoints:
                endpoint.close()

    def _probed(self, reading: Reading, probe: int, endpoint: Endpoint) -> TeacherLogprobs:
        answer = asked(endpoint, reading.spans[probe], reading.k)
        if answer.problem:
            raise BakeError(
                answer.problem + (f"; {requirements(reading.k)}" if answer.unfit else "")
            )
        return reading.targets(probe, answer)

    def _others(self, reading: Reading, probe: int) -> Iterator[tuple[int, TeacherLogprobs]]:
        others = [index for index in range(len(reading.spans)) if index != probe]
        failures = Failures()

        def submit(number: int) -> Future[Answer]:
            endpoint = self._endpoints[number % len(self._endpoints)]
            span = reading.spans[others[number]]
            return run_in_thread(lambda: asked(endpoint, span, reading.k))

        def read(number: int, answer: Answer) -> TeacherLogprobs | None:
            try:
                found = reading.targets(others[number], answer)
            except TokenizerError:
                raise
            except BakeError as error:
                failures.note(str(error), answer.final)
                return None
            failures.in_a_row = 0
            return found

        answers = gather(
            len(others),
            submit,
            read,
            lambda _, error: error if isinstance(error, Exception) else BakeError(str(error)),
            lambda number: BakeError(f"{reading.named(others[number])}: no answer"),
            limit=self._concurrency,
        )
        yield from ((others[number], found) for number, found in answers if found is not None)
        failures.report(len(reading.spans))


@dataclass
class Failures:
    """The conversations that were not scored; the others go on meanwhile."""

    problems: list[str] = field(default_factory=list)
    in_a_row: int = 0

    def note(self, problem: str, final: bool) -> None:
        """Count one. Raises BakeError where there is no use in asking for more."""
        self.problems.append(problem)
        self.in_a_row += 1
        if final or self.in_a_row >= GIVE_UP:
            raise BakeError(f"{problem}; what was answered is kept, and the same command goes on")

    def report(self, calls: int) -> None:
        """Raise BakeError if there were any."""
        if self.problems:
            raise BakeError(
                f"{len(self.problems)} of {calls} conversations were not scored, the last with: "
                f"{self.problems[-1]}; the others are kept, and the same command asks for these "
                "again"
            )


@dataclass(frozen=True)
class Answer:
    """What came of one request: `prompt_logprobs` as it came, or why there is none."""

    url: str
    rows: Any = None
    problem: str = ""
    final: bool = False  # whether no other request would fare better
    unfit: bool = False  # whether the endpoint may not know what it was asked


def asked(endpoint: Endpoint, span: Span, k: int) -> Answer:
    """Ask for one span's prompt log-probabilities; again, where the answer is no completion."""
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            body = endpoint.complete(span.tokens, {"prompt_logprobs": k})
            return Answer(endpoint.url, _first_choice(body).get("prompt_logprobs"))
        except openai.OpenAIError as error:
            problem, final = endpoint.explained(error)
            unfit = isinstance(error, openai.APIStatusError) and error.status_code in UNFIT
            return Answer(endpoint.url, problem=problem, final=final, unfit=unfit)
        except UnusableError as error:
            problem = f"{endpoint.url}: answered with {error}"
    return Answer(endpoint.url, problem=problem)


def requirements(k: int) -> str:
    """What an endpoint must be able to do."""
    return (
        "teacher.source = 'openai' needs an endpoint that returns prompt_logprobs for a prompt of "
        "token ids, as vLLM's /completions does, and from vLLM --max-logprobs of at least "
        f"teacher.top_k = {k} (it is 20 unless set)"
    )


def _first_choice(body: str) -> Mapping[str, Any]:
    """The completion's fields. Raises UnusableError for what is none."""
    try:
        found = json.loads(body)
    except ValueError:
        raise UnusableError(f"no JSON, but {body[:80]!r}") from None
    choices = found.get("choices") if isinstance(found, dict) else None
    if not choices or not isinstance(choices[0], dict):
        raise UnusableError(f"no choices: {body[:80]!r}")
    first: Mapping[str, Any] = choices[0]
    return first


class Reading:
    """What is asked about some spans, and how the answers are read."""

    def __init__(self, spans: Sequence[Span], k: int, draws: bool, vocabulary: Vocabulary) -> None:
        self.spans, self.k, self._draws, self._vocabulary = spans, k, draws, vocabulary

    def probe(self) -> int:
        """The shortest span with a token that can be compared. Raises BakeError without one."""
        fit = [
            index
            for index, span in enumerate(self.spans)
            if any(map(self._vocabulary.is_comparable, span.tokens[-span.n_response :]))
        ]
        if not fit:
            raise BakeError(
                "no response has a token that is a whole character, so that the endpoint's "
                "tokenizer cannot be compared with the student's; use teacher.source = 'self'"
            )
        return min(fit, key=lambda index: len(self.spans[index].tokens))

    def named(self, index: int) -> str:
        """Whose answer it is, for a message."""
        return self.spans[index].name or "a sequence"

    def targets(self, index: int, answer: Answer) -> TeacherLogprobs:
        """Of one answer. Raises BakeError with the conversation's name where it is unfit."""
        span, name = self.spans[index], self.named(index)
        if answer.problem:
            raise BakeError(f"{name}: {answer.problem}")
        if not isinstance(answer.rows, list):
            raise BakeError(
                f"{name}: {answer.url} gives no prompt_logprobs; {requirements(self.k)}"
            )
        if len(answer.rows) != len(span.tokens):
            raise BakeError(
                f"{name}: {answer.url} gives {len(answer.rows)} rows of prompt_logprobs for "
                f"{len(span.tokens)} tokens"
            )
        scored = list(zip(span.tokens, answer.rows, strict=True))[-span.n_response :]
        rows = [_Row.read(token, row, f"{name}: {answer.url}") for token, row in scored]
        self._vocabulary.check(span, [row.text for row in rows], answer.url)
        listed = {(entry.token, entry.text) for row in rows for entry in row.listed}
        self._vocabulary.check_listed(listed, name, answer.url)
        ids, logprobs = self._top(rows, answer.url)
        if bool((logprobs.logsumexp(dim=1) > ROUNDING).any()):
            raise BakeError(
                f"{name}: {answer.url} gives numbers that are no log-probabilities; from vLLM, "
                "--logprobs-mode raw_logprobs gives them"
            )
        if self._draws:
            own = torch.tensor([row.logprob for row in rows])
            drawn = response_token_as_draw(span, own, logprobs)
        else:
            nothing = torch.zeros(len(ids), 0)
            drawn = nothing.long(), nothing, nothing
        return TeacherLogprobs(ids, logprobs, *mask_top_k_draws(ids, *drawn))

    def _top(self, rows: Sequence[_Row], url: str) -> tuple[Tensor, Tensor]:
        fewest = min(len(row.top(self.k)) for row in rows)
        if fewest < self.k:
            raise BakeError(
                f"teacher.top_k = {self.k}: {url} gives {fewest} log-probabilities at a position; "
                "lower it"
            )
        top = torch.tensor([row.top(self.k) for row in rows], dtype=torch.float64)  # [N, K, 2]
        return top[..., 0].long(), top[..., 1].float()


@dataclass(frozen=True)
class _Entry:
    """A token that an endpoint lists at a position."""

    token: int
    logprob: float  # nats
    rank: int  # 1 is the most likely
    text: str | None

    @classmethod
    def read(cls, token: int, entry: Mapping[str, Any]) -> _Entry:
        """Of vLLM's logprob, rank and decoded_token."""
        logprob = entry.get("logprob")
        nats = math.nan if logprob is None else float(logprob)
        return cls(token, nats, entry.get("rank") or 1, entry.get("decoded_token"))

    @property
    def scored(self) -> bool:
        """Whether it has a log-probability."""
        return math.isfinite(self.logprob) and self.logprob > NOT_SCORED


@dataclass(frozen=True)
class _Row:
    """One position: the prompt's own token, and all that the endpoint lists there."""

    text: str
    logprob: float
    listed: tuple[_Entry, ...]  # most likely first

    @classmethod
    def read(cls, token: int, row: Any, whose: str) -> _Row:
        """Of vLLM's mapping from ids to logprob, rank and decoded_token. Raises BakeError."""
        own = row.get(str(token)) if isinstance(row, dict) else None
        if own is None:
            raise BakeError(f"{whose} does not score token {token} where the response has it")
        listed = [_Entry.read(int(key), entry) for key, entry in row.items()]
        if not all(entry.scored for entry in listed):
            raise BakeError(f"{whose} gives no log-probability of a token where {token} stands")
        if not isinstance(own.get("decoded_token"), str):
            raise BakeError(
                f"{whose} gives no decoded_token, so that its tokenizer cannot be compared with "
                "the student's; vLLM gives it unless --skip-tokenizer-init is set"
            )
        listed.sort(key=lambda entry: -entry.logprob)
        mine = _Entry.read(token, own)
        return cls(mine.text or "", mine.logprob, tuple(listed))

    def top(self, k: int) -> list[tuple[int, float]]:
        """The K most likely; the prompt's own token is listed besides, with its lower rank."""
        found = [(entry.token, entry.logprob) for entry in self.listed if entry.rank <= k]
        return found[:k]
