"""The kinds of faults of a chat endpoint, and which of them happens to a request.

- 401, 402, 403, 404, 429, 429-date, 429-quota, 500, 502, 503: the status, with OpenAI's or
  OpenRouter's words; 429 says when to retry in seconds, 429-date by a date;
- html: status 200 with a page of HTML; drop: the connection closes without a response; timeout: it
  does so late;
- slow: the response comes late; wrong_type: it is called text/plain;
- reset: the connection is reset in the middle of the body; truncated: the body is cut in half;
- no_choices, null_content, error_body: status 200, and a body without a completion.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Sequence
from email.utils import formatdate
from random import Random
from typing import Any

from starlette.responses import HTMLResponse, Response

from promptbake_loopback.errors import HttpError
from promptbake_loopback.faults import Fault, FaultQueue
from promptbake_loopback.openai.errors import error_body
from promptbake_loopback.responses import Reset, json_response

RATE_LIMIT = HttpError(429, "Rate limit reached.", "rate_limit_exceeded")
STATUSES = {  # with the type of the error, where it is not the status's
    "401": (HttpError(401, "Incorrect API key provided.", "invalid_api_key"), None),
    "402": (HttpError(402, "Insufficient credits.", 402), None),
    "403": (HttpError(403, "Your input was flagged.", 403), None),
    "404": (HttpError(404, "The model does not exist.", "model_not_found"), None),
    "429": (RATE_LIMIT, "requests"),
    "429-date": (RATE_LIMIT, "requests"),
    "429-quota": (
        HttpError(429, "You exceeded your current quota.", "insufficient_quota"),
        "insufficient_quota",
    ),
    "500": (HttpError(500, "The server had an error."), None),
    "502": (HttpError(502, "The provider gave an invalid response.", 502), None),
    "503": (HttpError(503, "The engine is overloaded, try again later.", 503), None),
}
EARLY = frozenset({*STATUSES, "html", "drop", "timeout"})  # instead of what was asked for
WHOLE = frozenset({"slow", "wrong_type"})  # the response is good all the same
KINDS = EARLY | WHOLE | {"reset", "truncated", "no_choices", "null_content", "error_body"}
LASTING = frozenset({"401", "402", "403", "404", "429-quota"})  # a retry does not help
TRANSIENT = KINDS - LASTING
PAGE = "<html><body><h1>Bad gateway</h1></body></html>"


class FaultPlan:
    """Chooses the fault of a request: one that was injected, else the script's, else by chance."""

    def __init__(
        self,
        queue: FaultQueue,
        seed: int,
        share: float,
        kinds: Collection[str],
        script: Sequence[str | None],
    ) -> None:
        queue.check(*kinds, *(kind for kind in script if kind is not None))
        if not 0 <= share <= 1 or (share and not kinds):
            raise ValueError(f"faults is a share of requests, and needs kinds; found {share}")
        self._queue, self._seed, self._share = queue, seed, share
        self._kinds, self._script = sorted(kinds), tuple(script)

    def take(self, number: int, path: str) -> Fault | None:
        """The fault of a request, if any. Chance depends on the seed and the number alone."""
        if fault := self._queue.take(KINDS, path):
            return fault
        kind = None
        if number < len(self._script):
            kind = self._script[number]
        elif self._share:
            chance = Random(f"{self._seed}/{number}")
            kind = chance.choice(self._kinds) if chance.random() < self._share else None
        return Fault(kind) if kind is not None else None


def refusal(kind: str, retry_after: float) -> Response:
    """The response of an EARLY kind that has one; `retry_after` is in seconds."""
    if kind == "html":
        return HTMLResponse(PAGE)
    headers = {}
    if kind == "429":
        headers["Retry-After"] = f"{retry_after:g}"
    if kind == "429-date":  # whole seconds: 0.5 to 1.5 from now
        headers["Retry-After"] = formatdate(math.ceil(time.time() + 0.5), usegmt=True)
    error, type_ = STATUSES[kind]
    return json_response(error_body(error, type_), error.status, headers)


def completion_response(body: dict[str, Any], kind: str | None) -> Response:
    """A whole response, or what a fault of a kind that is not EARLY makes of it."""
    if kind == "no_choices":
        body = {**body, "choices": []}
    if kind == "null_content":
        body = {**body, "choices": [_without_content(choice) for choice in body["choices"]]}
    if kind == "error_body":  # as OpenRouter reports what goes wrong once a model has begun
        body = {"error": {"code": 502, "message": "Provider returned error"}}
    if kind == "reset":
        return Reset(json.dumps(body), media_type="application/json")
    if kind == "truncated":
        text = json.dumps(body)
        return Response(text[: len(text) // 2], media_type="application/json")
    return json_response(
        body, headers={"Content-Type": "text/plain"} if kind == "wrong_type" else None
    )


def _without_content(choice: dict[str, Any]) -> dict[str, Any]:
    if "message" in choice:
        return {**choice, "message": {**choice["message"], "content": None}}
    return {**choice, "text": None}
