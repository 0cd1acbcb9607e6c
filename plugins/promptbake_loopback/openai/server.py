"""The chat endpoint as a whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from promptbake_loopback.errors import HttpError
from promptbake_loopback.faults import FaultQueue
from promptbake_loopback.openai.catalogue import PARAMETERS, Catalogue
from promptbake_loopback.openai.chat import Texts, complete, default_text
from promptbake_loopback.openai.errors import error_body
from promptbake_loopback.openai.exchange import Complete, Delays, Exchange
from promptbake_loopback.openai.faults import KINDS, FaultPlan
from promptbake_loopback.openai.meter import Meter, MeterCounter
from promptbake_loopback.openai.prices import PRICES, Prices, Usage
from promptbake_loopback.openai.scoring import Logprobs, Scorer
from promptbake_loopback.responses import json_response
from promptbake_loopback.server import LoopbackServer

KEY = "sk-loopback"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MODELS = "/v1/models"


class ChatEndpoint(LoopbackServer):
    """A chat endpoint in a thread of this process, for as long as the block lasts.

    Every response comes `latency` seconds after its request. `answer` gives a text to each request
    for a chat completion, or a mapping with the fields of the message and `finish_reason`; without
    it the text depends on messages, temperature, seed and model alone. `logprobs` and `decode`
    turn on POST /v1/completions with token ids, as vLLM has it; at most `max_logprobs` for each
    token.

    `faults` is the share of requests that something goes wrong with, one of `kinds`, drawn from
    `seed` and the request's number; `script` gives the kinds (or None) of the first requests in
    order; `inject_fault` injects one, and see `openai.faults` for what they are. `slow` is in
    seconds, 5 times the latency where it is not given, and at least 0.25; a 429 asks for
    `retry_after` seconds.
    """

    def __init__(
        self,
        latency: float = 0.0,
        seed: int = 0,
        faults: float = 0.0,
        kinds: Collection[str] = KINDS,
        key: str = KEY,
        models: Sequence[str] = ("tiny-chat",),
        answer: Texts | None = None,
        prices: Prices = PRICES,
        script: Sequence[str | None] = (),
        *,
        slow: float | None = None,
        retry_after: float = 0.2,
        context_length: int = 8192,
        parameters: Sequence[str] = PARAMETERS,
        logprobs: Logprobs | None = None,
        decode: Callable[[int], str] = str,
        max_logprobs: int = 20,
        port: int = 0,
    ) -> None:
        super().__init__(FaultQueue(KINDS), port)
        self._key = key
        self._catalogue = Catalogue(models, prices, context_length, parameters)
        self._texts = answer or default_text
        self._scorer = Scorer(logprobs, decode, max_logprobs) if logprobs else None
        self._counter = MeterCounter()
        self._exchange = Exchange(
            FaultPlan(self._faults, seed, faults, kinds, script),
            self._counter,
            Delays(latency, max(5 * latency, 0.25) if slow is None else slow, retry_after),
            in_threads=answer is not None or logprobs is not None,
        )

    @property
    def url(self) -> str:
        """The client's base_url."""
        return f"{self.origin}/v1"

    @property
    def meter(self) -> Meter:
        """What has been asked and answered so far."""
        return self._counter.snapshot()

    def error_body(self, error: HttpError) -> Any:
        """OpenAI's."""
        return error_body(error)

    def routes(self) -> Sequence[BaseRoute]:
        """Completions, which are metered, and to which faults happen; models."""
        return [
            Route(CHAT, self._is_metered(self._chat), methods=["POST"]),
            Route(TEXT, self._is_metered(self._score), methods=["POST"]),
            Route(MODELS, self._shown(self._catalogue.listing)),
            Route(f"{MODELS}/{{model:path}}", self._shown(self._catalogue.find)),
        ]

    def _is_metered(self, completing: Complete) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            self._counter.count_path(request.url.path)

            def checked(body: dict[str, Any], number: int) -> tuple[dict[str, Any], Usage]:
                self._check_key(request)
                self._catalogue.find(body.get("model"))
                return completing(body, number)

            return await self._exchange.respond(request, checked)

        return respond

    def _shown(self, show: Callable[..., Any]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            self._counter.count_path(request.url.path)
            self._check_key(request)
            return json_response(show(**request.path_params))

        return respond

    def _check_key(self, request: Request) -> None:
        if request.headers.get("Authorization", "").removeprefix("Bearer ") != self._key:
            raise HttpError(401, "Incorrect API key provided.", "invalid_api_key")

    def _chat(self, body: dict[str, Any], number: int) -> tuple[dict[str, Any], Usage]:
        return complete(body, self._texts, self._catalogue.prices, number)

    def _score(self, body: dict[str, Any], number: int) -> tuple[dict[str, Any], Usage]:
        if self._scorer is None:
            raise HttpError(404, "this endpoint scores no tokens: it was given no logprobs")
        return self._scorer.complete(body, self._catalogue.prices, number)
