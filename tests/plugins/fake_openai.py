"""A fake endpoint with the tiny model behind it, and the same model in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from promptbake import Datum, Message, Prompt, Span, TeacherLogprobs
from promptbake.testing import tiny_model, tiny_tokenizer
from promptbake_loopback.openai import ChatEndpoint
from promptbake_openai import Endpoint, OpenAITeacher
from promptbake_torch import TorchModel, make_engine

K = 6
KEY = "sk-test-27b0"
PROMPT = Prompt("pirate", "Answer like a pirate who has lost his map.")
DIALOGUES = {
    "What is a tide?": "Arr, the moon!",
    "Who are you?": "A poor man, matey.",
    "How far is it?": "Ten leagues.",
    "Say hm.": "Hm!",
}
Rows = list[dict[str, Any] | None]


def new_twin() -> TorchModel:
    """The same model in this process."""
    return TorchModel(make_engine(tiny_model(), tiny_tokenizer(), "tiny", "tiny"), None, 8)


torch_twin = cache(new_twin)


def datums(model: Any = None) -> list[Datum]:
    """c0 to c3, with and without the prompt; the last is the shortest."""
    renderer = (model or torch_twin()).renderer
    return [
        Datum(
            f"c{number}",
            f"q{number}",
            renderer.prompt((Message("user", query),)) + renderer.response(text, True),
            renderer.prompt((Message("user", query),), PROMPT.text) + renderer.response(text, True),
            len(renderer.response(text, True)),
        )
        for number, (query, text) in enumerate(DIALOGUES.items())
    ]


def spans() -> list[Span]:
    return [datum.teacher for datum in datums()]


def scores(ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits = torch_twin().engine.module(torch.tensor([ids])).logits[0].float()
    return logits.log_softmax(dim=1)


def decoded(token: int) -> str:
    """As vLLM, which shows special tokens."""
    text: str = _tokenizer().decode([token])
    return text


_tokenizer = cache(tiny_tokenizer)


def serving(logprobs: Any = scores, decode: Any = decoded, **options: Any) -> ChatEndpoint:
    return ChatEndpoint(key=KEY, logprobs=logprobs, decode=decode, **options)


class SpoilingEndpoint(Endpoint):
    """Changes the prompt_logprobs of one response, the first unless `after` says otherwise."""

    def __init__(
        self,
        served: ChatEndpoint,
        max_retries: int,
        spoil: Callable[[Rows], object] | None,
        after: int,
    ) -> None:
        super().__init__(
            "tiny-chat",
            served.url,
            "OPENAI_API_KEY",
            timeout=5.0,
            max_retries=max_retries,
            connections=4,
        )
        self._spoil, self._after = spoil, after

    def complete(self, prompt: Sequence[int], body: Mapping[str, Any]) -> str:
        text = super().complete(prompt, body)
        if self._spoil is None or self.requests != self._after + 1:
            return text
        response = json.loads(text)
        choice = response["choices"][0]
        changed = self._spoil(choice["prompt_logprobs"])
        choice["prompt_logprobs"] = choice["prompt_logprobs"] if changed is None else changed
        return json.dumps(response)


def teacher(
    *served: ChatEndpoint,
    max_retries: int = 0,
    concurrency: int = 1,
    spoil: Callable[[Rows], object] | None = None,
    after: int = 0,
) -> OpenAITeacher:
    endpoints = [SpoilingEndpoint(each, max_retries, spoil, after) for each in served]
    return OpenAITeacher(endpoints, concurrency=concurrency)


def score(
    source: OpenAITeacher, wanted: Sequence[Span] | None = None, k: int = K, draws: int = 0
) -> dict[int, TeacherLogprobs]:
    wanted = spans() if wanted is None else wanted
    return dict(
        source.score(wanted, k=k, draws=draws, seeds=[0] * len(wanted), open_model=torch_twin)
    )
