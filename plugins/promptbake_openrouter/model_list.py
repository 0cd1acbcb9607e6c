"""OpenRouter's list of models: prices and context sizes."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import Any

import httpx2

from promptbake import BakeError, GenerationJob, nearest
from promptbake_openai import Prices, max_usage

KEY = "OPENROUTER_API_KEY"
BYTES_PER_TOKEN = 4  # of ordinary text, for an estimate; a budget reserves for the worst case
TIMEOUT = 20.0  # seconds


class ListedModel:
    """One model's entry in the list, which is downloaded at first use and needs no key."""

    def __init__(self, base_url: str, model: str) -> None:
        self._url, self._model = f"{base_url}/models", model

    def prices(self) -> Prices | None:
        """In dollars per million tokens; None where they are unknown."""
        try:
            pricing = self._entry["pricing"]
        except httpx2.HTTPError:
            return None
        prompt, completion = (float(pricing[name]) * 1e6 for name in ("prompt", "completion"))
        if prompt < 0 or completion < 0:  # a router, whose price depends on the model that it picks
            return None
        return Prices(prompt, completion, f"{self._url} today, {self._model}")

    def check(self, job: GenerationJob) -> None:
        """Raise BakeError for a model that is not listed, or whose context is too short."""
        try:
            context = self._entry.get("context_length")
        except httpx2.HTTPError as error:
            reason = str(error).partition(" for url")[0]
            raise BakeError(f"{self._url}: could not download it: {reason}") from None
        for request in job.requests:
            prompt_bytes = max_usage(request, replace(job, turns=1)).input_tokens
            turns = max_usage(request, job).output_tokens  # the last call reads all earlier ones
            needed = prompt_bytes // BYTES_PER_TOKEN + turns
            if context and needed > context:
                raise BakeError(
                    f"query {request.query.id}: may take {needed} tokens, and the context of "
                    f"{self._model} holds {context}; shorten it or lower data.max_tokens"
                )

    @cached_property
    def _entry(self) -> dict[str, Any]:
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        response = httpx2.get(self._url, headers=headers, timeout=TIMEOUT).raise_for_status()
        models: dict[str, dict[str, Any]] = {each["id"]: each for each in response.json()["data"]}
        if self._model not in models:
            raise BakeError(
                f"options.data_providers.openrouter.model: OpenRouter has no {self._model!r}"
                f"{nearest(self._model, models)}"
            )
        return models[self._model]
