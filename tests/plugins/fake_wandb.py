"""A server with the part of W&B's protocol that a run's metrics need."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class FakeWandb(ThreadingHTTPServer):
    """What it has received, by the run's id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.names: dict[str, str] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.exit_codes: dict[str, int] = {}

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def upsert(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run is created or changed."""
        self.names.setdefault(run["name"], run["displayName"])
        self.configs[run["name"]] = json.loads(run["config"])
        project = {"name": run["project"], "entity": {"name": run["entity"] or "crew"}}
        bucket = {"id": run["name"], "name": run["name"], "displayName": "", "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def stream(self, run: str, received: dict[str, Any]) -> None:
        """Lines of a run's history, or its end."""
        lines = received.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history[run] += map(json.loads, lines)
        if received.get("complete"):
            self.exit_codes[run] = received["exitcode"]


class Handler(BaseHTTPRequestHandler):
    """Responds to one request."""

    server: FakeWandb

    def do_POST(self) -> None:
        received = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        response: dict[str, Any] = {}
        if self.path == "/graphql":
            if "upsertBucket" in received["query"]:
                data = self.server.upsert(received["variables"])
            else:
                data = {"createRunFiles": {"runID": "", "uploadHeaders": [], "files": []}}
            response = {"data": data}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], received)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(response).encode())

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def serving() -> Iterator[FakeWandb]:
    """A server while the block runs."""
    with FakeWandb() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
