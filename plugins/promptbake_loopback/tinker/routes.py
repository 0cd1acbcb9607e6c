"""Which request is whose, and what goes wrong with it on the way."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from promptbake_tinker.loopback import wire
from promptbake_tinker.loopback.catalogue import Catalogue
from promptbake_tinker.loopback.errors import HttpError
from promptbake_tinker.loopback.faults import EARLY, LATE, POLLING, STATUSES, Fault, Faults
from promptbake_tinker.loopback.messages import BYTES, Answer, Request, in_json
from promptbake_tinker.loopback.meter import Tally
from promptbake_tinker.loopback.operations import Operations
from promptbake_tinker.loopback.sampling import Sampling
from promptbake_tinker.loopback.training import Training

API = "/api/v1/"
POLL = 3.0  # seconds that retrieve_future waits for a result
# What this server does not speak: the SDK's other transport, compressed bodies.
CLIENT_CONFIG = {"use_pyqwest_transport": False, "proto_compress_fwdbwd": False}
RUN = "training_runs/([^/]+)"
CHECKPOINT = RUN + "/checkpoints/([a-z_]+)/([^/]+)"
FILE = "/loopback/files/([^/]+)/([^/]+)/([^/]+)/([^/]+)"

# Takes the request and the parts of its path; gives an Answer, or what it says in JSON.
Handler = Callable[..., Any]


class Routes:
    """Finds the handler of a request, and answers for it."""

    def __init__(
        self,
        training: Training,
        sampling: Sampling,
        catalogue: Catalogue,
        operations: Operations,
        tally: Tally,
        faults: Faults,
    ) -> None:
        self._operations = operations
        self._tally = tally
        self._faults = faults
        self._catalogue = catalogue
        self._finished: set[str] = set()
        self.log: list[tuple[str, str]] = []  # name and request id of what was submitted
        self._training = training
        self._submits: dict[str, Callable[[Any], Any]] = {
            "create_model": training.create_model,
            "load_weights": training.load_weights,
            "optim_step": training.optim_step,
            "save_weights": training.save_weights,
            "save_weights_for_sampler": training.save_weights_for_sampler,
            "save_weights_external": training.save_weights_external,
            "asample": sampling.sample,
        }
        table = self._service(sampling) + _rest(catalogue)
        self._table = [(re.compile(f"{row[0]} {row[1]}"), row[2], row[3]) for row in table]

    def answer(self, request: Request) -> Answer:
        """The answer, or what a fault makes of it. Raises HttpError."""
        if match := re.fullmatch(FILE, request.path):
            return Answer(body=self._catalogue.download(*match.groups()), content_type=BYTES)
        if not request.key.startswith("tml-"):
            raise HttpError(401, "X-API-Key: expected a key that begins with tml-")
        name, handle = self._find(request)
        self._tally.request(name)
        if fault := self._faults.take(EARLY, name):
            return _instead(fault)
        late = self._faults.take(LATE, name)
        found = handle()
        if late is not None and late.kind == "dropped":
            return Answer(dropped=True)
        if late is not None:
            time.sleep(late.seconds)
        return found if isinstance(found, Answer) else in_json(found)

    def _find(self, request: Request) -> tuple[str, Callable[[], Any]]:
        """The endpoint's name, and what to do."""
        path = request.path.removeprefix(API)
        if path == "forward_backward":
            message = wire.read_forward_backward(request.body)
            name = "forward" if message.forward_only else "forward_backward"
            return name, partial(self._submit, name, self._training.forward_backward, message)
        if path in self._submits:
            return path, lambda: self._submit(path, self._submits[path], request.json)
        for pattern, name, handler in self._table:
            if match := pattern.fullmatch(f"{request.method} {path}"):
                return name, partial(handler, request, *match.groups())
        raise HttpError(404, f"{request.method} {request.path}: this server has no such endpoint")

    def _submit(self, name: str, take: Callable[[Any], Any], body: Any) -> Any:
        try:
            accepted = take(body)
        except KeyError as error:
            raise HttpError(400, f"{name}: the request lacks {error}") from None
        self.log.append((name, accepted["request_id"]))
        return accepted

    def _service(self, sampling: Sampling) -> list[tuple[str, str, str, Handler]]:
        return [
            ("POST", "client/config", "client_config", lambda _: _client_config()),
            ("POST", "client/dynamic_config", "client_dynamic_config", lambda _: {}),
            ("GET", "healthz", "healthz", lambda _: {"status": "ok"}),
            ("POST", "telemetry", "telemetry", lambda _: {"status": "accepted"}),
            ("POST", "create_session", "create_session", lambda _: _session()),
            ("POST", "session_heartbeat", "session_heartbeat", self._heartbeat),
            ("POST", "sessions/([^/]+)/finish", "finish", self._finish),
            ("POST", "retrieve_future", "retrieve_future", self._retrieve),
            (
                "POST",
                "create_sampling_session",
                "create_sampling_session",
                lambda request: sampling.create_session(request.json),
            ),
        ]

    def _heartbeat(self, request: Request) -> Any:
        if request.json.get("session_id") in self._finished:
            raise HttpError(410, "the session is finished")
        return {"type": "session_heartbeat"}

    def _finish(self, _: Request, session: str) -> Any:
        self._finished.add(session)
        return {}

    def _retrieve(self, request: Request) -> Any:
        """The result, where there is one within POLL seconds."""
        key = request.json.get("request_id", "")
        operation = self._operations.find(key)
        again = self._faults.take(POLLING, "retrieve_future", operation.name)
        if again or not operation.done.wait(POLL) or operation.body is None:
            return {"type": "try_again", "request_id": key, "queue_state": "active"}
        self._operations.fetched(operation)
        return Answer(body=operation.body, content_type=operation.content_type)


def _rest(catalogue: Catalogue) -> list[tuple[str, str, str, Handler]]:
    return [
        (
            "GET",
            "get_server_capabilities",
            "get_server_capabilities",
            lambda _: catalogue.capabilities(),
        ),
        ("POST", "get_info", "get_info", lambda r: catalogue.info(r.json["model_id"])),
        (
            "POST",
            "weights_info",
            "weights_info",
            lambda r: catalogue.weights_info(r.json["tinker_path"]),
        ),
        ("GET", "training_runs", "training_runs", lambda _: catalogue.training_runs()),
        ("GET", RUN, "training_run", lambda _, run: catalogue.training_run(run)),
        ("GET", "checkpoints", "checkpoints", lambda _: catalogue.all_checkpoints()),
        ("GET", RUN + "/checkpoints", "checkpoints", lambda _, run: catalogue.checkpoints(run)),
        ("DELETE", CHECKPOINT, "delete_checkpoint", lambda _, *at: catalogue.delete(*at)),
        ("PUT", CHECKPOINT + "/ttl", "ttl", lambda r, *at: catalogue.set_ttl(r.json, *at)),
        (
            "GET",
            CHECKPOINT + "/external_weights_urls",
            "external_weights_urls",
            lambda _, *at: catalogue.download_urls(*at),
        ),
        ("GET", "samplers/([^/]+)", "samplers", lambda _, sampler: catalogue.sampler(sampler)),
    ]


def _client_config() -> Answer:
    """The SDK never closes the connection that it asks this on."""
    answer = in_json(CLIENT_CONFIG)
    return replace(answer, headers={"Connection": "close"})


def _session() -> Any:
    return {"type": "create_session", "session_id": uuid.uuid4().hex}


def _instead(fault: Fault) -> Answer:
    """The answer of a server that does nothing."""
    if fault.kind == "dropped_early":
        return Answer(dropped=True)
    if fault.kind == "garbage":
        page = b"<!doctype html><title>Bad gateway</title><p>Come back later."
        return Answer(body=page, content_type="text/html")
    status = STATUSES[fault.kind]
    answer = in_json({"detail": f"ordered: {fault.kind}"}, status)
    if status != 429:
        return answer
    return Answer(status, answer.body, headers={"Retry-After": str(fault.seconds)})
