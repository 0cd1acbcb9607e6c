"""OpenRouter's list of models: prices and context sizes."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import httpx2

from promptbake import BakeError, GenerationJob, nearest
from promptbake_openai.prices import Prices
from promptbake_openai.provider import at_most

KEY = "OPENROUTER_API_KEY"
BYTES_PER_TOKEN = 4  # of ordinary text, for a guess; a budget's holds are made for the worst
SECONDS = 20.0


class Listing:
    """What the list says of one model. It is fetched when it is first asked; it needs no key."""

    def __init__(self, base_url: str, model: str) -> None:
        self._url, self._model = f"{base_url}/models", model

    def prices(self) -> Prices | None:
        """In dollars per million tokens; None where the list cannot be had."""
        try:
            pricing = self._entry["pricing"]
        except httpx2.HTTPError:
            return None
        prompt, completion = (float(pricing[name]) * 1e6 for name in ("prompt", "completion"))
        if prompt < 0 or completion < 0:  # a router, whose price depends on where it sends
            return None
        return Prices(prompt, completion, f"{self._url} today, {self._model}")

    def check(self, job: GenerationJob) -> None:
        """Raise BakeError for a model that is not listed, or whose context is too short."""
        try:
            context = self._entry.get("context_length")
        except httpx2.HTTPError as error:
            reason = str(error).partition(" for url")[0]
            raise BakeError(f"{self._url}: cannot be had: {reason}") from None
        for request in job.requests:
            longest = at_most(request, job)
            read = longest.input_tokens // BYTES_PER_TOKEN
            needed = (read + longest.output_tokens) // longest.calls
            if context and needed > context:
                raise BakeError(
                    f"query {request.query.id}: may take {needed} tokens, and the context of "
                    f"{self._model} holds {context}; shorten it or lower data.max_tokens"
                )

    @cached_property
    def _entry(self) -> dict[str, Any]:
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = httpx2.get(self._url, headers=headers, timeout=SECONDS).raise_for_status()
        entries: dict[str, dict[str, Any]] = {each["id"]: each for each in answer.json()["data"]}
        if self._model not in entries:
            raise BakeError(
                f"options.data_providers.openrouter.model: OpenRouter has no {self._model!r}"
                f"{nearest(self._model, entries)}"
            )
        return entries[self._model]
