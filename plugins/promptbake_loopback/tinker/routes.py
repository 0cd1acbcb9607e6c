"""The endpoints of a Tinker service, and what the faults make of their responses."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import isawaitable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from promptbake_loopback.errors import HttpError
from promptbake_loopback.faults import FaultQueue
from promptbake_loopback.responses import HangUp, disconnected, json_response, read_json
from promptbake_loopback.tinker import protobuf
from promptbake_loopback.tinker.catalogue import Catalogue
from promptbake_loopback.tinker.faults import EARLY, LATE, POLLING, early_response, seconds_of
from promptbake_loopback.tinker.meter import MeterCounter
from promptbake_loopback.tinker.operations import Operations
from promptbake_loopback.tinker.sampling import Sampling
from promptbake_loopback.tinker.training import Training

API = "/api/v1"
POLL_SECONDS = 3.0  # that retrieve_future waits for a result
# What this server does not speak: the SDK's other transport, compressed bodies.
CLIENT_CONFIG = {"use_pyqwest_transport": False, "proto_compress_fwdbwd": False}
CHECKPOINT = "/training_runs/{run}/checkpoints/{kind}/{name}"
FILE = "/loopback/files/{secret}/{run}/{name}/{file}"

Json = Mapping[str, Any]
# Takes the request's JSON and the parameters of its path; gives a Response, or what is in its JSON.
Handler = Callable[..., Any]


class Routes:
    """Finds the handler of a request; checks the key, counts, and lets faults happen."""

    def __init__(
        self,
        training: Training,
        sampling: Sampling,
        catalogue: Catalogue,
        operations: Operations,
        counter: MeterCounter,
        faults: FaultQueue,
    ) -> None:
        self._training, self._sampling, self._catalogue = training, sampling, catalogue
        self._operations, self._counter, self._faults = operations, counter, faults
        self.finished: dict[str, str] = {}  # how each session ended

    def all(self) -> Sequence[Route]:
        """Every endpoint."""
        table: list[tuple[str, str, str, Handler]] = [
            *self._submitting(),
            *self._session(),
            *self._catalogued(),
        ]
        return [
            Route(FILE, self._download),
            Route(f"{API}/forward_backward", self._forward_backward, methods=["POST"]),
            *(
                Route(API + path, self._endpoint(name, handler), methods=[method])
                for method, path, name, handler in table
            ),
        ]

    def _submitting(self) -> list[tuple[str, str, str, Handler]]:
        training = self._training
        accepting = {
            "create_model": training.create_model,
            "load_weights": training.load_weights,
            "optim_step": training.optim_step,
            "save_weights": training.save_weights,
            "save_weights_for_sampler": training.save_weights_for_sampler,
            "save_weights_external": training.save_weights_external,
            "asample": self._sampling.sample,
        }
        return [
            ("POST", f"/{name}", name, partial(_accept, name, accept))
            for name, accept in accepting.items()
        ]

    def _session(self) -> list[tuple[str, str, str, Handler]]:
        create_sampling = self._sampling.create_session
        return [
            ("POST", "/client/config", "client_config", _client_config),
            ("POST", "/client/dynamic_config", "client_dynamic_config", lambda _: {}),
            ("GET", "/healthz", "healthz", lambda _: {"status": "ok"}),
            ("POST", "/telemetry", "telemetry", lambda _: {"status": "accepted"}),
            ("POST", "/create_session", "create_session", _create_session),
            ("POST", "/session_heartbeat", "session_heartbeat", self._heartbeat),
            ("POST", "/sessions/{session}/finish", "finish", self._finish),
            ("POST", "/create_sampling_session", "create_sampling_session", create_sampling),
            ("POST", "/retrieve_future", "retrieve_future", self._retrieve),
        ]

    def _catalogued(self) -> list[tuple[str, str, str, Handler]]:
        known = self._catalogue
        return [
            ("GET", "/get_server_capabilities", "get_server_capabilities", known.capabilities),
            ("POST", "/get_info", "get_info", known.info),
            ("POST", "/weights_info", "weights_info", known.weights_info),
            ("DELETE", CHECKPOINT, "delete_checkpoint", known.delete),
            ("PUT", CHECKPOINT + "/ttl", "ttl", known.set_ttl),
            ("GET", CHECKPOINT + "/external_weights_urls", "external_weights_urls", known.urls),
            ("GET", "/samplers/{sampler_id}", "samplers", known.sampler),
        ]

    def _endpoint(self, name: str, handler: Handler) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            _check_key(request)
            body = await read_json(request)
            if name == "retrieve_future":
                handle = partial(handler, body, request)
            else:
                handle = partial(handler, body, **request.path_params)
            return await self._respond(name, handle)

        return respond

    async def _forward_backward(self, request: Request) -> Response:
        """The one request in protobuf, and the one path with two names."""
        _check_key(request)
        message = protobuf.read_forward_backward(await request.body())
        name = "forward" if message.forward_only else "forward_backward"
        return await self._respond(name, partial(self._training.forward_backward, message))

    async def _respond(self, name: str, handle: Callable[[], Any]) -> Response:
        """The handler's response, or what a fault makes of it. Raises HttpError."""
        self._counter.count_request(name)
        if fault := self._faults.take(EARLY, name):
            return early_response(fault)
        late = self._faults.take(LATE, name)
        result = handle()
        if isawaitable(result):
            result = await result
        if late is not None and late.kind == "dropped":
            return HangUp()
        if late is not None:
            await asyncio.sleep(seconds_of(late))
        return result if isinstance(result, Response) else json_response(result)

    async def _download(self, request: Request) -> Response:
        content = self._catalogue.download(**request.path_params)
        return Response(content, media_type="application/octet-stream")

    def _heartbeat(self, body: Json) -> Json:
        if body.get("session_id") in self.finished:
            raise HttpError(410, "the session is finished")
        return {"type": "session_heartbeat"}

    def _finish(self, body: Json, session: str) -> Json:
        self.finished[session] = body["reason"]["type"]
        return {}

    async def _retrieve(self, body: Json, request: Request) -> Any:
        """The result, where there is one within POLL_SECONDS."""
        request_id = body.get("request_id", "")
        operation = self._operations.find(request_id)
        fault = self._faults.take(POLLING, "retrieve_future", operation.name)
        again = fault is not None and fault.kind == "try_again"
        if not again and not operation.done.done():
            ends = [
                asyncio.wrap_future(operation.done),
                asyncio.ensure_future(disconnected(request.receive)),
            ]
            await asyncio.wait(ends, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        if again or operation.body is None:
            return {"type": "try_again", "request_id": request_id, "queue_state": "active"}
        if fault is not None:
            raise HttpError(410, f"{request_id}: its result is no longer kept")
        self._operations.mark_fetched(operation)
        return Response(operation.body, media_type=operation.media_type)


def _check_key(request: Request) -> None:
    if not request.headers.get("X-API-Key", "").startswith("tml-"):
        raise HttpError(401, "X-API-Key: expected a key that begins with tml-")


def _accept(name: str, accept: Callable[[Json], Json], body: Json) -> Json:
    try:
        return accept(body)
    except KeyError as error:
        raise HttpError(400, f"{name}: the request lacks {error}") from None


def _client_config(_: Json) -> Response:
    """The SDK never closes the connection that it asks this on."""
    return json_response(CLIENT_CONFIG, headers={"Connection": "close"})


def _create_session(_: Json) -> Json:
    return {"type": "create_session", "session_id": uuid.uuid4().hex}
