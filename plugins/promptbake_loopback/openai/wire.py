"""HTTP/1.1 on one connection: as much of it as API clients use."""

from __future__ import annotations

import socket
import struct
import time
from http import HTTPStatus

from promptbake_openai.loopback.messages import Answer, HttpError, Request

PIECE = 2**16  # bytes
ABORT = struct.pack("ii", 1, 0)  # close() sends RST at once


class Wire:
    """A connection that is kept alive, as its one thread uses it."""

    def __init__(self, connection: socket.socket) -> None:
        # Otherwise an answer can wait 40 ms for the client's acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._buffer = bytearray()

    def read(self) -> Request | None:
        """The next request; None where the client has hung up. Raises HttpError."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not self._receive():
                return None
        method, target, headers = _head(self._buffer[:end].decode("latin-1"))
        if "transfer-encoding" in headers:
            raise HttpError(411, "a request needs a Content-Length")
        start = end + 4
        stop = start + int(headers.get("content-length", "0"))
        while len(self._buffer) < stop:
            if not self._receive():
                return None
        body = bytes(self._buffer[start:stop])
        del self._buffer[:stop]
        return Request(method, target, headers, body)

    def write(self, answer: Answer) -> bool:
        """Send it; whether the connection is still open."""
        lines = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(answer.body)}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
            "\r\n",
        ]
        head = "\r\n".join(lines).encode("latin-1")
        if not answer.reset:
            self._connection.sendall(head + answer.body)
            return True
        self._connection.sendall(head + answer.body[: len(answer.body) // 2])
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        return False

    def wait(self, until: float) -> bool:
        """Sleep until then (monotonic seconds); False, and at once, where the client hangs up."""
        left = max(0.0, until - time.monotonic())
        self._connection.settimeout(left)
        try:
            ahead = self._connection.recv(1, socket.MSG_PEEK)
        except (TimeoutError, BlockingIOError):
            return True
        except ConnectionError:
            return False
        finally:
            self._connection.settimeout(None)
        if ahead:  # the next request is here already
            time.sleep(max(0.0, until - time.monotonic()))
        return bool(ahead)

    def _receive(self) -> bool:
        piece = self._connection.recv(PIECE)
        self._buffer += piece
        return bool(piece)


def _head(text: str) -> tuple[str, str, dict[str, str]]:
    first, *lines = text.split("\r\n")
    try:
        method, target, _ = first.split(" ")
    except ValueError:
        raise HttpError(400, f"no HTTP request begins with {first!r}") from None
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return method, target, headers
