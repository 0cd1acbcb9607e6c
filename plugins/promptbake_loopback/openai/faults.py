"""What can go wrong with an endpoint: ordered, scripted, or by chance."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from random import Random
from threading import Lock
from typing import Any

from promptbake_openai.loopback.messages import Answer, error_body, in_json


@dataclass(frozen=True)
class _Refusal:
    status: int
    type: str
    code: str | int | None
    message: str


STATUSES = {
    "401": _Refusal(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "402": _Refusal(402, "invalid_request_error", 402, "Insufficient credits."),
    "403": _Refusal(403, "invalid_request_error", 403, "Your input was flagged."),
    "404": _Refusal(404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "429": _Refusal(429, "requests", "rate_limit_exceeded", "Rate limit reached."),
    "429-date": _Refusal(429, "requests", "rate_limit_exceeded", "Rate limit reached."),
    "429-quota": _Refusal(
        429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."
    ),
    "500": _Refusal(500, "server_error", None, "The server had an error."),
    "502": _Refusal(502, "server_error", 502, "The provider gave an invalid response."),
    "503": _Refusal(503, "server_error", 503, "The engine is overloaded, try again later."),
}
EARLY = frozenset({*STATUSES, "html", "drop", "timeout"})  # instead of what was asked for
WHOLE = frozenset({"slow", "wrong_type"})  # the answer is good all the same
SPOILING = frozenset({"reset", "truncated", "no_choices", "null_content", "error_body"})
ALL_KINDS = EARLY | WHOLE | SPOILING
LASTING = frozenset({"401", "402", "403", "404", "429-quota"})  # asking again does not help
PASSING = ALL_KINDS - LASTING
PAGE = Answer(body=b"<html><body><h1>Bad gateway</h1></body></html>", content_type="text/html")


def refusal(kind: str, retry_after: float) -> Answer:
    """The answer of an EARLY kind that has one; `retry_after` is in seconds."""
    if kind == "html":
        return PAGE
    found = STATUSES[kind]
    headers = {}
    if kind == "429":
        headers["Retry-After"] = f"{retry_after:g}"
    if kind == "429-date":  # whole seconds: 0.5 to 1.5 from now
        headers["Retry-After"] = formatdate(math.ceil(time.time() + 0.5), usegmt=True)
    body = error_body(found.message, found.type, found.code)
    return in_json(body, found.status, headers)


def deliver(body: dict[str, Any], kind: str | None) -> Answer:
    """A whole answer, or what a fault of a kind that is not EARLY makes of it."""
    if kind == "no_choices":
        return in_json({**body, "choices": []})
    if kind == "null_content":
        return in_json({**body, "choices": [_emptied(choice) for choice in body["choices"]]})
    if kind == "error_body":  # as OpenRouter reports what goes wrong once a model has begun
        return in_json({"error": {"code": 502, "message": "Provider returned error"}})
    whole = in_json(body)
    if kind == "wrong_type":
        return replace(whole, content_type="text/plain")
    if kind == "truncated":
        return replace(whole, body=whole.body[: len(whole.body) // 2])
    return replace(whole, reset=kind == "reset")


def _emptied(choice: dict[str, Any]) -> dict[str, Any]:
    if "message" in choice:
        return {**choice, "message": {**choice["message"], "content": None}}
    return {**choice, "text": None}


class _Ordered:
    def __init__(self, kind: str, times: int, after: int) -> None:
        self.kind = kind
        self.times = times
        self.after = after


class Faults:
    """Which fault happens to a request: one that was ordered, else the script's, else by chance."""

    def __init__(
        self, seed: int, share: float, kinds: Collection[str], script: Sequence[str | None]
    ) -> None:
        _check({*kinds, *script} - {None})
        if not 0 <= share <= 1 or (share and not kinds):
            raise ValueError(f"faults is a share of requests, and needs kinds; found {share}")
        self._seed = seed
        self._share = share
        self._kinds = sorted(kinds)
        self._script = tuple(script)
        self._lock = Lock()
        self._ordered: list[_Ordered] = []

    def inject(self, kind: str, times: int = 1, after: int = 0) -> None:
        """Order a fault for `times` requests, once `after` more have passed."""
        _check({kind})
        if times < 1 or after < 0:
            raise ValueError(f"times is at least 1, after at least 0; found {times}, {after}")
        with self._lock:
            self._ordered.append(_Ordered(kind, times, after))

    def strike(self, number: int) -> str | None:
        """The fault of a request, if any. Chance depends on the seed and the number alone."""
        if ordered := self._take():
            return ordered
        if number < len(self._script):
            return self._script[number]
        if not self._share:
            return None
        chance = Random(f"{self._seed}/{number}")
        return chance.choice(self._kinds) if chance.random() < self._share else None

    def _take(self) -> str | None:
        with self._lock:
            for ordered in self._ordered:
                if ordered.after:
                    ordered.after -= 1
                    continue
                ordered.times -= 1
                if not ordered.times:
                    self._ordered.remove(ordered)
                return ordered.kind
        return None


def _check(kinds: Collection[str | None]) -> None:
    if unknown := set(kinds) - ALL_KINDS:
        raise ValueError(f"no fault is called {sorted(map(str, unknown))}; {sorted(ALL_KINDS)} are")
