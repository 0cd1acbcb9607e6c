"""What an endpoint was asked and has answered, counted before the response leaves."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from promptbake_loopback.openai.prices import Usage


@dataclass(frozen=True)
class Meter:
    """A snapshot of the counts since the endpoint was started.

    `requests`, and all that is not `by_path`, is about requests for completions. Tokens and
    dollars are those of the answered ones: a fault is never among them, but for `slow` and
    `wrong_type`, whose responses are whole.
    """

    requests: int = 0
    answered: int = 0
    repeats: int = 0  # requests for what had been answered before
    abandoned: int = 0  # the client hung up before its response, which a real service may bill
    in_flight: int = 0
    most_in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    answers: Mapping[str, int] = field(default_factory=dict)  # by identity
    refused: Mapping[str, int] = field(default_factory=dict)  # by status: the client's mistakes
    by_path: Mapping[str, int] = field(default_factory=dict)  # all requests to the service's paths
    arrivals: tuple[float, ...] = ()  # monotonic seconds, by the request's number
    injected: tuple[tuple[int, str], ...] = ()  # (the request's number, the kind of its fault)

    @property
    def faults(self) -> Mapping[str, int]:
        """How often each kind of fault happened."""
        return Counter(kind for _, kind in self.injected)


def identity(request: Mapping[str, Any]) -> str:
    """A digest of what decides on a completion: messages, temperature, seed and model."""
    fields = [request.get(name) for name in ("model", "messages", "temperature", "seed", "prompt")]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class MeteredRequest:
    """A request for a completion, in the order of arrival."""

    number: int
    time: float  # monotonic seconds
    identity: str


class MeterCounter:
    """Counts for a Meter: in the server's thread, for snapshots from any."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._by_path: Counter[str] = Counter()
        self._arrivals: list[float] = []
        self._injected: list[tuple[int, str]] = []
        self._dollars = 0.0

    def count_path(self, path: str) -> None:
        """Count an HTTP request."""
        with self._lock:
            self._by_path[path] += 1

    def begin(self, digest: str) -> MeteredRequest:
        """Count a request for a completion as in flight, and give it its number."""
        with self._lock:
            request = MeteredRequest(len(self._arrivals), time.monotonic(), digest)
            self._arrivals.append(request.time)
            counts = self._counts
            counts["in_flight"] += 1
            counts["most_in_flight"] = max(counts["most_in_flight"], counts["in_flight"])
            counts["repeats"] += digest in self._answers
        return request

    def end(self, *, abandoned: bool) -> None:
        """Count one request less as in flight; whether its client has hung up."""
        with self._lock:
            self._counts["in_flight"] -= 1
            self._counts["abandoned"] += abandoned

    def count_answer(self, request: MeteredRequest, usage: Usage) -> None:
        """Count a whole response."""
        with self._lock:
            self._answers[request.identity] += 1
            self._counts["answered"] += 1
            self._counts["prompt_tokens"] += usage.prompt_tokens
            self._counts["completion_tokens"] += usage.completion_tokens
            self._dollars += usage.dollars

    def count_fault(self, request: MeteredRequest, kind: str) -> None:
        """Count a fault."""
        with self._lock:
            self._injected.append((request.number, kind))

    def count_refusal(self, status: int) -> None:
        """Count a request that could not be answered as it was."""
        with self._lock:
            self._refused[str(status)] += 1

    def snapshot(self) -> Meter:
        """The counts so far."""
        with self._lock:
            return Meter(
                requests=len(self._arrivals),
                dollars=self._dollars,
                answers=dict(self._answers),
                refused=dict(self._refused),
                by_path=dict(self._by_path),
                arrivals=tuple(self._arrivals),
                injected=tuple(self._injected),
                **self._counts,
            )
