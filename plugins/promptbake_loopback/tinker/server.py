"""The server: HTTP/1.1 on 127.0.0.1, a thread for each connection."""

from __future__ import annotations

import socket
import socketserver
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any

from promptbake_tinker.loopback.errors import HttpError
from promptbake_tinker.loopback.faults import Fault, Faults
from promptbake_tinker.loopback.messages import Answer, Request, in_json
from promptbake_tinker.loopback.meter import Meter, Tally

if TYPE_CHECKING:
    from promptbake_tinker.loopback.engine import Engine
    from promptbake_tinker.loopback.operations import Operations
    from promptbake_tinker.loopback.routes import Routes

KEY = "tml-loopback"  # any key that begins with tml- will do


class Loopback:
    """A Tinker service of one model, in threads of this process, for as long as the block lasts.

    `model` is `tiny`, or a Hugging Face folder; clients ask for it by the name given here. What
    is trained survives in the folder `state`. LoRAs are scaled by `alpha` / rank. Port 0 is any
    free one. `clock` gives the seconds since the epoch that checkpoints expire by.
    """

    def __init__(
        self,
        model: str = "tiny",
        *,
        state: Path | str,
        alpha: float = 32,
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._state = Path(state)
        self._alpha = alpha
        self._port = port
        self._clock = clock
        self._tally = Tally()
        self._faults = Faults()
        self._routes: Routes | None = None
        self._operations: Operations | None = None
        self._http: _Server | None = None
        self._thread: Thread | None = None

    def __enter__(self) -> Loopback:
        # torch and the SDK, in seconds.
        from promptbake_tinker.loopback.catalogue import Catalogue
        from promptbake_tinker.loopback.checkpoints import Store
        from promptbake_tinker.loopback.engine import Engine
        from promptbake_tinker.loopback.operations import Operations
        from promptbake_tinker.loopback.routes import Routes
        from promptbake_tinker.loopback.sampling import Sampling
        from promptbake_tinker.loopback.training import Training

        engine = Engine(self._model, self._alpha)
        store = Store(self._state, self._clock)
        self._operations = Operations(self._tally, self._faults)
        self._http = _Server(("127.0.0.1", self._port), self._answer)
        self._routes = Routes(
            Training(engine, store, self._operations),
            Sampling(engine, store, self._operations),
            Catalogue(engine, store, self.url, self._tokenizer(engine), self._clock),
            self._operations,
            self._tally,
            self._faults,
        )
        self._operations.start()
        self._thread = Thread(
            target=self._http.serve_forever, args=(0.02,), name="loopback", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._http is not None
        assert self._thread is not None
        assert self._operations is not None
        self._http.shutdown()
        self._thread.join()
        self._http.hang_up()
        self._http.server_close()
        self._operations.close()

    @property
    def url(self) -> str:
        """The SDK's base_url."""
        assert self._http is not None
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def model(self) -> str:
        """The name that clients ask for the model by."""
        return self._model

    @property
    def meter(self) -> Meter:
        """What has been done so far."""
        return self._tally.snapshot()

    @property
    def requests(self) -> list[tuple[str, str]]:
        """(name, request id) of all operations that were submitted, repeats included."""
        assert self._routes is not None
        return list(self._routes.log)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong."""
        self._faults.inject(fault)

    def _tokenizer(self, engine: Engine) -> str:
        """Where transformers finds it: the tiny model's is nowhere, unless it is saved."""
        if self._model != "tiny":
            return self._model
        folder = self._state / "tokenizer"
        engine.tokenizer.save_pretrained(folder)
        return str(folder)

    def _answer(self, request: Request) -> Answer:
        """Never raises."""
        try:
            if request.path.startswith("/loopback/") and "/files/" not in request.path:
                return self._control(request)
            assert self._routes is not None
            return self._routes.answer(request)
        except HttpError as error:
            return in_json({"detail": error.detail}, error.status)
        except Exception as error:
            # Not 500: the SDK would try again for minutes.
            traceback.print_exc()
            return in_json({"detail": f"the server has a bug: {error!r}"}, 400)

    def _control(self, request: Request) -> Answer:
        if request.path == "/loopback/meter" and request.method == "GET":
            return in_json(asdict(self.meter))
        if request.path == "/loopback/faults" and request.method == "POST":
            try:
                self.inject(Fault(**request.json))
            except (TypeError, ValueError) as error:
                raise HttpError(400, str(error)) from None
            return in_json({})
        raise HttpError(404, "GET /loopback/meter, POST /loopback/faults")


class _Server(socketserver.ThreadingTCPServer):  # HTTPServer would look up its own name
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 512  # the SDK opens many connections at once

    def __init__(self, address: tuple[str, int], answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self._open: set[socket.socket] = set()
        self._lock = Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close the connections that clients keep open."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = self.headers.get("X-API-Key") or ""
        answer = self.server.answer(Request(self.command, self.path, key, body))
        if answer.dropped:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""
