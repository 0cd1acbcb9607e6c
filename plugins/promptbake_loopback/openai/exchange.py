"""What happens between a request for a completion and its response: the wait, fault and count."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from promptbake_loopback.errors import HttpError
from promptbake_loopback.faults import Fault
from promptbake_loopback.openai.errors import error_body
from promptbake_loopback.openai.faults import (
    EARLY,
    WHOLE,
    FaultPlan,
    completion_response,
    refusal,
)
from promptbake_loopback.openai.meter import MeterCounter, MeteredRequest, identity
from promptbake_loopback.openai.prices import Usage
from promptbake_loopback.responses import HangUp, is_connected_until, json_response, read_json

# Takes the request's JSON and its number; gives the response's JSON. Raises HttpError.
Complete = Callable[[dict[str, Any], int], tuple[dict[str, Any], Usage]]


@dataclass(frozen=True)
class Delays:
    """In seconds, from a request's arrival."""

    latency: float
    slow: float  # instead of the latency, where the fault is `slow` or `timeout`
    retry_after: float  # what a 429 asks for


class Exchange:
    """Answers requests for completions. `in_threads` is for a `complete` that may take long."""

    def __init__(
        self, plan: FaultPlan, counter: MeterCounter, delays: Delays, *, in_threads: bool
    ) -> None:
        self._plan, self._counter, self._delays = plan, counter, delays
        self._in_threads = in_threads

    async def respond(self, request: Request, complete: Complete) -> Response:
        """The response, or what a fault makes of it."""
        digest = ""
        with suppress(HttpError):  # _complete will say so
            digest = identity(await read_json(request))
        metered = self._counter.begin(digest)
        response: Response | None = None
        try:
            response = await self._respond(request, metered, complete)
        finally:
            # Before the response is out: the client's next request may be there at once.
            self._counter.end(abandoned=response is None)
        return response or HangUp()

    async def _respond(
        self, request: Request, metered: MeteredRequest, complete: Complete
    ) -> Response | None:
        """None where the client has hung up."""
        fault, delays = self._plan.take(metered.number, request.url.path), self._delays
        kind = None if fault is None else fault.kind
        delay = delays.latency
        if fault is not None:
            self._counter.count_fault(metered, fault.kind)
            if fault.kind in ("slow", "timeout"):
                delay = delays.slow if fault.seconds is None else fault.seconds
            if fault.kind in EARLY:
                return await self._fail(request, fault, metered.time + delay)
        try:
            body, usage = await self._complete(request, metered.number, complete)
        except HttpError as error:
            self._counter.count_refusal(error.status)
            return json_response(error_body(error), error.status)
        if not await is_connected_until(request, metered.time + delay):
            return None
        if kind is None or kind in WHOLE:
            self._counter.count_answer(metered, usage)
        return completion_response(body, kind)

    async def _complete(
        self, request: Request, number: int, complete: Complete
    ) -> tuple[dict[str, Any], Usage]:
        body = await read_json(request)
        try:
            if self._in_threads:
                return await run_in_threadpool(complete, body, number)
            return complete(body, number)
        except HttpError:
            raise
        except Exception as error:  # of the test's own `answer` or `logprobs`
            traceback.print_exc()
            # Not 500: a client would try again.
            raise HttpError(400, f"the endpoint has a bug: {error!r}") from error

    async def _fail(self, request: Request, fault: Fault, when: float) -> Response:
        if fault.kind == "timeout":
            await is_connected_until(request, when)
        if fault.kind in ("timeout", "drop"):
            return HangUp()
        retry_after = self._delays.retry_after if fault.seconds is None else fault.seconds
        return refusal(fault.kind, retry_after)
