"""Reading requests, and the responses that a well-behaved server never gives."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from promptbake_loopback.errors import HttpError

ABORT = struct.pack("ii", 1, 0)  # closing sends RST at once


async def read_json(request: Request) -> dict[str, Any]:
    """The body, a JSON object. Raises HttpError 400."""
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise HttpError(400, f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise HttpError(400, "the body is no JSON object")
    return body


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response in JSON."""
    return Response(json.dumps(value), status, headers, "application/json")


async def disconnected(receive: Receive) -> None:
    """Wait until the client hangs up. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def is_connected_until(request: Request, when: float) -> bool:
    """Sleep until `when` (monotonic seconds); False, and at once, where the client hangs up."""
    if when > time.monotonic():
        try:
            async with asyncio.timeout_at(when):
                await disconnected(request.receive)
        except TimeoutError:
            return True
        return False
    return True


class HangUp(Response):
    """The connection closes without a response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close it."""
        if transport := _transport(scope):
            transport.close()
        await disconnected(receive)


class Reset(Response):
    """The connection is reset in the middle of the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half of the body, and RST."""
        body = bytes(self.body)[: len(self.body) // 2]
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if transport := _transport(scope):
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            transport.abort()
        await disconnected(receive)


def _transport(scope: Scope) -> Any:
    """The connection that a request came on, which ASGI hides; None where it is closed."""
    for connection in scope["app"].state.connections:
        if connection.client == scope["client"]:
            return connection.transport
    return None
