"""The server: HTTP/1.1 on 127.0.0.1, a thread for each connection."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from threading import Lock, Thread, current_thread
from types import TracebackType

from promptbake_openai.loopback.catalogue import PARAMETERS, Catalogue
from promptbake_openai.loopback.chat import Texts, default_text
from promptbake_openai.loopback.exchange import Delays, Exchange
from promptbake_openai.loopback.faults import ALL_KINDS, Faults
from promptbake_openai.loopback.messages import HttpError
from promptbake_openai.loopback.meter import Meter, Tally
from promptbake_openai.loopback.prices import PRICES, Prices
from promptbake_openai.loopback.routes import Routes
from promptbake_openai.loopback.scoring import Logprobs, Scorer
from promptbake_openai.loopback.wire import Wire

KEY = "sk-loopback"
BACKLOG = 512  # clients open many connections at once
PATIENCE = 5.0  # seconds that the end waits for a thread


class Endpoint:
    """A chat endpoint in threads of this process, for as long as the block lasts.

    Every answer comes `latency` seconds after its request. `answer` gives a text to each request
    for a chat completion, or a mapping with the fields of the message and `finish_reason`; without
    it the text depends on messages, temperature, seed and model alone. `logprobs` and `decode`
    turn on POST /v1/completions with token ids, as vLLM has it; at most `max_logprobs` for each
    token.

    `faults` is the share of requests that something goes wrong with, one of `kinds`, drawn from
    `seed` and the request's number; `script` gives the kinds (or None) of the first requests in
    order; `inject` orders one. `slow` is in seconds, 5 times the latency where it is not given,
    and at least 0.25; a 429 asks for `retry_after` seconds. Once `credit` dollars are spent, the
    status is 402. Port 0 is any free one.
    """

    def __init__(
        self,
        latency: float = 0.0,
        seed: int = 0,
        faults: float = 0.0,
        kinds: Collection[str] = ALL_KINDS,
        key: str = KEY,
        models: Sequence[str] = ("tiny-chat",),
        answer: Texts | None = None,
        prices: Prices = PRICES,
        script: Sequence[str | None] = (),
        *,
        slow: float | None = None,
        retry_after: float = 0.2,
        credit: float | None = None,
        context_length: int = 8192,
        parameters: Sequence[str] = PARAMETERS,
        logprobs: Logprobs | None = None,
        decode: Callable[[int], str] = str,
        max_logprobs: int = 20,
        port: int = 0,
    ) -> None:
        self._port = port
        self._tally = Tally()
        self._faults = Faults(seed, faults, kinds, script)
        catalogue = Catalogue(models, prices, context_length, parameters)
        scorer = Scorer(logprobs, decode, max_logprobs) if logprobs else None
        texts = answer or default_text
        routes = Routes(key, credit, catalogue, texts, scorer, self._tally, self._faults)
        delays = Delays(latency, max(5 * latency, 0.25) if slow is None else slow, retry_after)
        self._exchange = Exchange(routes, self._faults, self._tally, delays)
        self._lock = Lock()
        self._open: dict[Thread, socket.socket] = {}
        self._ending = False
        self._listener: socket.socket | None = None
        self._thread: Thread | None = None

    def __enter__(self) -> Endpoint:
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=BACKLOG)
        self._thread = Thread(
            target=self._listen, args=(self._listener,), name="endpoint", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._listener is not None
        assert self._thread is not None
        self._ending = True
        socket.create_connection(self._listener.getsockname()).close()  # wakes accept()
        self._thread.join()
        self._listener.close()
        with self._lock:
            threads = list(self._open)
            for connection in self._open.values():
                with suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)

    @property
    def url(self) -> str:
        """The client's base_url."""
        assert self._listener is not None
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    @property
    def meter(self) -> Meter:
        """What has been asked and answered so far."""
        return self._tally.snapshot()

    def inject(self, kind: str, times: int = 1, after: int = 0) -> None:
        """Let something go wrong with `times` requests, once `after` more have passed."""
        self._faults.inject(kind, times, after)

    def _listen(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            if self._ending:
                connection.close()
                return
            thread = Thread(
                target=self._talk, args=(connection,), name="endpoint-connection", daemon=True
            )
            with self._lock:
                self._open[thread] = connection
            thread.start()

    def _talk(self, connection: socket.socket) -> None:
        # A client that has gone is no error.
        with connection, suppress(OSError):
            wire = Wire(connection)
            try:
                while (request := wire.read()) is not None:
                    if not self._exchange.serve(wire, request) or request.closing:
                        break
            except HttpError as error:  # no request that could be read
                wire.write(error.answer)
        with self._lock:
            del self._open[current_thread()]
