"""Fields that keep an endpoint from truncating or reshaping the distribution that it samples.

A server adds its own settings to what a request leaves out: vLLM and SGLang those of the model's
generation_config (top_k, top_p, repetition_penalty), llama.cpp its defaults (top_k 40, top_p 0.95,
min_p 0.05), transformers' server no sampling at all unless `do_sample` is set. The responses would
then not be samples at the temperature that they are labelled with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import openai

Fields = Mapping[str, Any]
HOSTED = "https://api.openai.com/"
# Each is tried where the endpoint refuses the one before it.
ALTERNATIVES: tuple[Fields, ...] = (
    {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1},  # vLLM, SGLang, llama.cpp
    {"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "repeat_penalty": 1},
    {  # transformers' server
        "top_p": 1,
        "generation_config": {
            "do_sample": True,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        },
    },
    {"top_p": 1},
    {},
)
NAMES = frozenset(name for fields in ALTERNATIVES for name in fields)
GREEDY: Fields = {}  # at temperature 0 nothing is drawn


class NeutralSampling:
    """Which neutral fields an endpoint accepts: found out by its first requests.

    Args:
        alternatives: In the order in which they are tried; the last one should be empty.
    """

    def __init__(self, alternatives: tuple[Fields, ...] = ALTERNATIVES) -> None:
        self._alternatives = alternatives
        self._accepted: Fields | None = None

    @classmethod
    def at(cls, url: str) -> NeutralSampling:
        """For an endpoint's address: OpenAI's own service is sent only what it documents."""
        return cls(ALTERNATIVES[-2:]) if url.startswith(HOSTED) else cls()

    def send(self, post: Callable[[Fields], str], temperature: float) -> str:
        """Send a request with the fields that are accepted.

        Args:
            post: Sends it with fields added, and returns the response's body.
            temperature: Of the request.

        Raises:
            openai.OpenAIError: There is no response; the first refusal, where nothing is accepted.
        """
        if temperature == 0:
            return post(GREEDY)
        if self._accepted is not None:
            return post(self._accepted)
        refusal: openai.APIStatusError | None = None
        for fields in map(_as_sent, self._alternatives):
            try:
                body = post(fields)
            except openai.APIStatusError as error:
                if not is_refusal(error.status_code, error.response.text):
                    raise
                refusal = refusal or error
                continue
            self._accepted = fields
            return body
        assert refusal is not None
        raise refusal


def is_refusal(status: int, body: str) -> bool:
    """Whether a response refuses the request's fields: status 400 or 422, in most servers.

    llama-cpp-python's server answers a field's value that it does not accept with status 500.
    """
    if status != 500:
        return status in (400, 422)
    return "validation error" in body and any(f"'{name}'" in body for name in NAMES)


def _as_sent(fields: Fields) -> Fields:
    """With nested fields as a text, which is how transformers' server takes them."""
    return {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
