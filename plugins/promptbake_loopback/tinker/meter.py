"""What a service would bill for, counted when an operation has been executed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from threading import Lock


@dataclass(frozen=True)
class Meter:
    """A snapshot of the counts since the server was started.

    An operation that failed, or was only repeated, is not in it. `requests` is the exception: it
    counts HTTP requests by endpoint, retries included. `executed` counts by request id, so that
    no value in it may be above 1.
    """

    sample_calls: int = 0
    prefill_tokens: int = 0  # of prompts, but for what came from the prefix cache
    cached_prefill_tokens: int = 0
    sampled_tokens: int = 0
    forward_calls: int = 0
    forward_tokens: int = 0  # of model_input, in requests without a backward pass
    forward_backward_calls: int = 0
    trained_tokens: int = 0  # of model_input, in requests with one
    datums: int = 0
    optim_steps: int = 0
    saves: int = 0
    models_created: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    executed: Mapping[str, int] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        """Token passes of training calls: a backward pass counts as one more."""
        return self.forward_tokens + 2 * self.trained_tokens


COUNTS = frozenset(field.name for field in fields(Meter) if field.type == "int")


class MeterCounter:
    """Counts for a Meter, from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._executed: Counter[str] = Counter()

    def count_request(self, endpoint: str) -> None:
        """Count an HTTP request."""
        with self._lock:
            self._requests[endpoint] += 1

    def count_executed(self, request_id: str, amounts: Mapping[str, int]) -> None:
        """Count an operation, and what it amounts to."""
        if unknown := set(amounts) - COUNTS:
            raise ValueError(f"the meter has no {sorted(unknown)}")
        with self._lock:
            self._executed[request_id] += 1
            self._counts.update(amounts)

    def snapshot(self) -> Meter:
        """The counts so far."""
        with self._lock:
            requests, executed = dict(self._requests), dict(self._executed)
            return Meter(**self._counts, requests=requests, executed=executed)
