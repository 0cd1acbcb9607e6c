"""Which path does what, and who may ask."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from promptbake_openai.loopback.catalogue import Catalogue
from promptbake_openai.loopback.chat import Texts, complete
from promptbake_openai.loopback.faults import Faults
from promptbake_openai.loopback.messages import HttpError, Request
from promptbake_openai.loopback.meter import Tally
from promptbake_openai.loopback.prices import Usage
from promptbake_openai.loopback.scoring import Scorer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MODELS, KEY = "/v1/models", "/v1/key"


class Routes:
    """Everything that an endpoint knows an answer to."""

    def __init__(
        self,
        key: str,
        credit: float | None,
        catalogue: Catalogue,
        texts: Texts,
        scorer: Scorer | None,
        tally: Tally,
        faults: Faults,
    ) -> None:
        self._key = key
        self._credit = credit  # dollars
        self._catalogue = catalogue
        self._texts = texts
        self._scorer = scorer
        self._tally = tally
        self._faults = faults

    def sells(self, request: Request) -> bool:
        """Whether it asks for a completion: those are metered, and faults happen to them."""
        return request.method == "POST" and request.path in (CHAT, TEXT)

    def sell(self, request: Request, number: int) -> tuple[dict[str, Any], Usage]:
        """A completion, and what it costs. Raises HttpError."""
        self._check_key(request)
        if self._credit is not None and self._tally.dollars >= self._credit:
            raise HttpError(402, "Insufficient credits. Add more and try again.", 402)
        asked = request.json()
        self._catalogue.find(asked.get("model"))
        if request.path == CHAT:
            return complete(asked, self._texts, self._catalogue.prices, number)
        if self._scorer is None:
            raise HttpError(404, "this endpoint scores no tokens: it was given no logprobs")
        return self._scorer.complete(asked, self._catalogue.prices, number)

    def show(self, request: Request) -> dict[str, Any]:
        """Any other answer. Raises HttpError."""
        asked = (request.method, request.path)
        if asked == ("GET", "/loopback/meter"):
            return asdict(self._tally.snapshot())
        if asked == ("POST", "/loopback/faults"):
            return self._inject(request)
        self._check_key(request)
        if asked == ("GET", MODELS):
            return self._catalogue.listing()
        if asked == ("GET", KEY):
            return self._account()
        if request.method == "GET" and request.path.startswith(f"{MODELS}/"):
            return self._catalogue.find(unquote(request.path.removeprefix(f"{MODELS}/")))
        raise HttpError(404, f"Invalid URL ({request.method} {request.path})")

    def _check_key(self, request: Request) -> None:
        if request.key != self._key:
            raise HttpError(401, "Incorrect API key provided.", "invalid_api_key")

    def _account(self) -> dict[str, Any]:
        """OpenRouter's, in dollars."""
        spent, limit = self._tally.dollars, self._credit
        left = None if limit is None else max(0.0, limit - spent)
        return {
            "data": {
                "label": "loopback",
                "usage": spent,
                "limit": limit,
                "limit_remaining": left,
                "is_free_tier": False,
            }
        }

    def _inject(self, request: Request) -> dict[str, Any]:
        try:
            self._faults.inject(**request.json())
        except (TypeError, ValueError) as error:
            raise HttpError(400, str(error)) from None
        return {}
