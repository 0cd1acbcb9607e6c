"""A server that speaks as much of W&B's protocol as a run's metrics take."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Double(ThreadingHTTPServer):
    """What it was sent, by the run's id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.names: dict[str, str] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.history: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.exit_codes: dict[str, int] = {}

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def upsert(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run begins, or changes."""
        self.names.setdefault(run["name"], run["displayName"])
        self.configs[run["name"]] = json.loads(run["config"])
        project = {"name": run["project"], "entity": {"name": run["entity"] or "crew"}}
        bucket = {"id": run["name"], "name": run["name"], "displayName": "", "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        """Lines of a run's history, or its end."""
        lines = sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history[run] += map(json.loads, lines)
        if sent.get("complete"):
            self.exit_codes[run] = sent["exitcode"]


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Double

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            if "upsertBucket" in sent["query"]:
                data = self.server.upsert(sent["variables"])
            else:
                data = {"createRunFiles": {"runID": "", "uploadHeaders": [], "files": []}}
            answer = {"data": data}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], sent)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Double]:
    """A server while the block runs."""
    with Double() as double:
        thread = Thread(target=double.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield double
        finally:
            double.shutdown()
            thread.join()
