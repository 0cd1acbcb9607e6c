"""A hostile endpoint for the fuzzer: changed bodies, odd headers, bombs."""

from __future__ import annotations

import gzip
import json
import random
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mutations import mutated

COMPLETION: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "model": "m",
    "provider": "p",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Arr, matey."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "cost": 0.001},
}


class Answers:
    """A server at this machine that gives one answer to every request."""

    def __init__(self) -> None:
        answers = self
        self.status, self.headers, self.body = 200, dict[str, str](), b""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(answers.status)
                for name, value in answers.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answers.body)))
                self.end_headers()
                self.wfile.write(answers.body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with suppress(OSError):  # the client has what it wants
                    super().handle()

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        self._bomb = gzip.compress(b" " * 400_000_000, 1)
        self._large = json.dumps({**COMPLETION, "x": "y" * 200_000_000}).encode()

    def answer(self, rng: random.Random, value: dict[str, Any]) -> None:
        """Answer with a changed body, and now and then with changed headers."""
        self.status = rng.choice((200,) * 12 + (400, 401, 402, 404, 429, 500, 503, 201))
        self.headers = {"content-type": rng.choice(("application/json",) * 5 + ("text/html", "x"))}
        self.body = mutated(json.dumps(value).encode(), rng)
        if self.status in (429, 503):
            pauses = ("1e300", "-1", "nan", "0.001", "soon", "9" * 400, "1e400",
                      "Fri, 31 Dec 9999 23:59:59 GMT", "Sun, 06 Nov 1994 08:49:37 GMT")  # fmt: skip
            self.headers["retry-after"] = rng.choice(pauses)
        if rng.random() < 0.05:
            self.headers["content-encoding"] = rng.choice(("gzip", "deflate", "x", "br"))
        if rng.random() < 0.0005:
            self.headers["content-encoding"], self.body = "gzip", self._bomb
        elif rng.random() < 0.0005:
            self.headers.pop("content-encoding", None)
            self.body = self._large
