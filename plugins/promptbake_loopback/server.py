"""What both fake servers are: starlette's routes, served by uvicorn in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from promptbake_loopback.errors import HttpError
from promptbake_loopback.faults import Fault, FaultQueue
from promptbake_loopback.responses import json_response, read_json

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")  # what a client may call this machine
BACKLOG = 512  # clients open many connections at once
KEEP_ALIVE = 3600  # seconds without a request
GRACE = 1.0  # seconds that the end leaves to requests whose client has been disconnected


class LoopbackServer(ABC):
    """A fake service on 127.0.0.1, for as long as the `with` block lasts. Port 0 is any free one.

    Beside the service's own routes it has GET /loopback/meter and POST /loopback/faults, whose
    JSON is the arguments of `inject_fault`.
    """

    def __init__(self, faults: FaultQueue, port: int) -> None:
        self._faults, self._port = faults, port

    @property
    @abstractmethod
    def meter(self) -> Any:
        """What has been done so far: a snapshot, a dataclass."""

    @abstractmethod
    def routes(self) -> Sequence[BaseRoute]:
        """The service's own. What takes long to load is loaded here."""

    @abstractmethod
    def error_body(self, error: HttpError) -> Any:
        """How the service words an error, in JSON."""

    def inject_fault(
        self,
        kind: str,
        on: str = "any",
        *,
        times: int = 1,
        after: int = 0,
        seconds: float | None = None,
    ) -> None:
        """Let something go wrong: see `Fault`. Raises ValueError for an unknown kind."""
        self._faults.inject(Fault(kind, on, times, after, seconds))

    @property
    def origin(self) -> str:
        """Scheme, address and port."""
        return f"http://{HOST}:{self._port}"

    def __enter__(self) -> Self:
        app = self._app()
        listener = socket.create_server((HOST, self._port), backlog=BACKLOG)
        # Inherited by connections. Without it a body waits 40 ms for the head to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = listener.getsockname()[1]
        self._server = _Uvicorn(app)
        self._thread = Thread(target=self._server.run_until_end, args=(listener,), daemon=True)
        self._thread.start()  # clients can connect already: the socket listens
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.end()
        self._thread.join()

    def _app(self) -> Starlette:
        routes = [
            Route("/loopback/meter", self._show_meter),
            Route("/loopback/faults", self._take_fault, methods=["POST"]),
            *self.routes(),
        ]
        handlers: dict[Any, Any] = {
            HttpError: lambda _, error: self._refuse(error),
            HTTPException: self._no_route,
            Exception: self._report_bug,
        }
        # A page in a browser may send requests to this machine, and resolve its own name to it.
        middleware = [
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS),
            Middleware(OwnOriginMiddleware),
        ]
        app = Starlette(routes=routes, exception_handlers=handlers, middleware=middleware)
        app.router.redirect_slashes = False
        return app

    def _refuse(self, error: HttpError) -> Response:
        return json_response(self.error_body(error), error.status)

    def _no_route(self, request: Request, _: Exception) -> Response:
        detail = f"Invalid URL ({request.method} {request.url.path}): there is no such endpoint"
        return self._refuse(HttpError(404, detail))

    def _report_bug(self, _: Request, error: Exception) -> Response:
        # Not 500: clients would try again for minutes. uvicorn logs the traceback.
        body = self.error_body(HttpError(400, f"the server has a bug: {error!r}"))
        return json_response(body, 400, {"Connection": "close"})

    async def _show_meter(self, _: Request) -> Response:
        return json_response(asdict(self.meter))

    async def _take_fault(self, request: Request) -> Response:
        try:
            self.inject_fault(**await read_json(request))
        except (TypeError, ValueError) as error:
            raise HttpError(400, str(error)) from None
        return json_response({})


class OwnOriginMiddleware:
    """Refuses what a web page of another origin sends: status 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from no page, or from one of this machine."""
        origin = Headers(scope=scope).get("origin")
        if origin is None or urlsplit(origin).hostname in HOSTS:
            await self._app(scope, receive, send)
        else:
            await Response("a page of another origin", 403)(scope, receive, send)


class _Uvicorn(uvicorn.Server):
    """Ends at once, where uvicorn's own end polls, and waits for the clients."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        app.state.connections = self.server_state.connections
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._ended = asyncio.Event()

    def run_until_end(self, listener: socket.socket) -> None:
        with self._runner:
            self._runner.run(self.serve([listener]))

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)

    async def main_loop(self) -> None:
        await self._ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._close_connections()
        if tasks := set(self.server_state.tasks):
            _, late = await asyncio.wait(tasks, timeout=GRACE)
            for task in late:
                task.cancel()
        self._close_connections()  # of clients that were accepted meanwhile

    def _close_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
