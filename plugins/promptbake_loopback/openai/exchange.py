"""What happens between a request and its answer: the wait, the fault, the count."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from promptbake_openai.loopback.faults import EARLY, WHOLE, Faults, deliver, refusal
from promptbake_openai.loopback.messages import Answer, HttpError, Request, in_json
from promptbake_openai.loopback.meter import Tally, Visit, identity
from promptbake_openai.loopback.prices import Usage
from promptbake_openai.loopback.routes import Routes
from promptbake_openai.loopback.wire import Wire


@dataclass(frozen=True)
class Delays:
    """In seconds, from a request's arrival."""

    latency: float
    slow: float  # instead of the latency, where the fault is `slow` or `timeout`
    retry_after: float  # what a 429 asks for


class Exchange:
    """Answers the requests of all connections, each in its connection's thread."""

    def __init__(self, routes: Routes, faults: Faults, tally: Tally, delays: Delays) -> None:
        self._routes = routes
        self._faults = faults
        self._tally = tally
        self._delays = delays

    def serve(self, wire: Wire, request: Request) -> bool:
        """Answer it; whether the connection is still open."""
        self._tally.request(request.path)
        if not self._routes.sells(request):
            return wire.write(self._show(request))
        visit = self._tally.arrive(_identity(request))
        try:
            answer = self._complete(wire, request, visit)
        finally:
            # Before the answer is out: the client's next request may be faster than this thread.
            self._tally.leave()
        return answer is not None and wire.write(answer)

    def _show(self, request: Request) -> Answer:
        try:
            return in_json(self._routes.show(request))
        except HttpError as error:
            return error.answer

    def _complete(self, wire: Wire, request: Request, visit: Visit) -> Answer | None:
        """None where the connection closes instead."""
        delays = self._delays
        if kind := self._faults.strike(visit.number):
            self._tally.strike(visit, kind)
        if kind in EARLY:
            return self._fail(wire, visit, kind)
        try:
            body, usage = self._sell(request, visit)
        except HttpError as error:
            self._tally.refuse(error.status)
            return error.answer
        if not wire.wait(visit.time + (delays.slow if kind == "slow" else delays.latency)):
            self._tally.abandon()
            return None
        if kind is None or kind in WHOLE:
            self._tally.answer(visit, usage)
        return deliver(body, kind)

    def _sell(self, request: Request, visit: Visit) -> tuple[dict[str, Any], Usage]:
        try:
            return self._routes.sell(request, visit.number)
        except HttpError:
            raise
        except Exception as error:  # of the test's own `answer` or `logprobs`
            traceback.print_exc()
            # Not 500: a client would try again.
            raise HttpError(400, f"the endpoint has a bug: {error!r}") from error

    def _fail(self, wire: Wire, visit: Visit, kind: str) -> Answer | None:
        if kind == "timeout":
            wire.wait(visit.time + self._delays.slow)
        if kind in ("timeout", "drop"):
            return None
        return refusal(kind, self._delays.retry_after)


def _identity(request: Request) -> str:
    try:
        return identity(request.json())
    except HttpError:  # sell() will say so
        return ""
