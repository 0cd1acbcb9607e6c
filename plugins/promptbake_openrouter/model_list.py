"""OpenRouter's list of models: prices and context sizes."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import Annotated

import httpx2
from pydantic import ConfigDict, Field

from promptbake import BakeError, Count, Document, GenerationJob, nearest, parse_json
from promptbake_openai import BoundedTransport, Prices, max_usage

KEY = "OPENROUTER_API_KEY"
BYTES_PER_TOKEN = 4  # of ordinary text, for an estimate; a budget reserves for the worst case
TIMEOUT = 20.0  # seconds


class _Pricing(Document):
    """Dollars a token, which are written as text."""

    model_config = ConfigDict(strict=False)
    prompt: Annotated[float, Field(ge=-1, le=1e6)]  # -1 is a router's
    completion: Annotated[float, Field(ge=-1, le=1e6)]


class _Model(Document):
    id: str
    context_length: Count | None = None
    pricing: _Pricing


class _ModelList(Document):
    data: list[_Model]


class ListedModel:
    """One model's entry in the list, which is downloaded at first use and needs no key."""

    def __init__(self, base_url: str, model: str) -> None:
        self._url, self._model = f"{base_url}/models", model

    def prices(self) -> Prices | None:
        """In dollars per million tokens; None where they are unknown."""
        try:
            pricing = self._entry.pricing
        except httpx2.HTTPError:
            return None
        prompt, completion = pricing.prompt * 1e6, pricing.completion * 1e6
        if prompt < 0 or completion < 0:  # a router, whose price depends on the model that it picks
            return None
        return Prices(prompt, completion, f"{self._url} today, {self._model}")

    def check(self, job: GenerationJob) -> None:
        """Raise BakeError for a model that is not listed, or whose context is too short."""
        try:
            context = self._entry.context_length
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
    def _entry(self) -> _Model:
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with httpx2.Client(transport=BoundedTransport(), timeout=TIMEOUT) as client:
            response = client.get(self._url, headers=headers).raise_for_status()
        where = f"{self._url}: is no list of models"
        models = {each.id: each for each in parse_json(_ModelList, response.content, where).data}
        if self._model not in models:
            raise BakeError(
                f"options.data_providers.openrouter.model: OpenRouter has no {self._model!r}"
                f"{nearest(self._model, models)}"
            )
        return models[self._model]
