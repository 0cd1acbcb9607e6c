"""The chat endpoint with the tiny model behind it, and the same model in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from promptbake.testing.tiny import tiny_model, tiny_tokenizer
from promptbake.types import Datum, Message, Prompt, Span, TeacherLogprobs
from promptbake_loopback.openai import ChatEndpoint
from promptbake_openai.endpoint import Endpoint
from promptbake_openai.gate import Gate
from promptbake_openai.teacher import OpenAITeacher
from promptbake_torch.loading import make_engine
from promptbake_torch.model import TorchModel

K = 6
PROMPT = Prompt("pirate", "Answer like a pirate who has lost his map.")
TALKS = {
    "What is a tide?": "Arr, the moon!",
    "Who are you?": "A poor man, matey.",
    "How far is it?": "Ten leagues.",
    "Say hm.": "Hm!",
}
Rows = list[dict[str, Any] | None]
MODEL, TOKENIZER = tiny_model(), tiny_tokenizer()


def torch_twin() -> TorchModel:
    """The same model in this process."""
    return TorchModel(make_engine(tiny_model(), tiny_tokenizer(), "tiny", "tiny"), None, 8)


def datums(twin: TorchModel) -> list[Datum]:
    found = []
    for number, (query, answer) in enumerate(TALKS.items()):
        turns = (Message("user", query),)
        response = twin.renderer.response(answer, True)
        student = twin.renderer.prompt(turns) + response
        teacher = twin.renderer.prompt(turns, PROMPT.text) + response
        found.append(Datum(f"c{number}", f"q{number}", student, teacher, len(response)))
    return found


def spans(twin: TorchModel) -> list[Span]:
    return [datum.teacher for datum in datums(twin)]


def scores(ids: list[int]) -> Tensor:
    with torch.inference_mode():
        logits = MODEL(torch.tensor([ids])).logits[0].float()
    return logits.log_softmax(dim=1)


def decoded(token: int) -> str:
    """As vLLM: special tokens are shown."""
    text: str = TOKENIZER.decode([token])
    return text


@contextmanager
def serving(
    logprobs: Callable[[list[int]], Any] | None = scores,
    decode: Callable[[int], str] = decoded,
    **options: Any,
) -> Iterator[ChatEndpoint]:
    with ChatEndpoint(logprobs=logprobs, decode=decode, **options) as endpoint:
        yield endpoint


def plain(endpoint: ChatEndpoint, max_retries: int = 0) -> Endpoint:
    return Endpoint(
        "tiny-chat",
        endpoint.url,
        "OPENAI_API_KEY",
        gate=Gate(),
        timeout=5.0,
        max_retries=max_retries,
        connections=4,
    )


def teacher(*endpoints: ChatEndpoint, max_retries: int = 2) -> OpenAITeacher:
    return OpenAITeacher([plain(endpoint, max_retries) for endpoint in endpoints], concurrency=4)


def ask(
    twin: TorchModel, source: OpenAITeacher, asked: Sequence[Span], k: int = K, draws: int = 0
) -> dict[int, TeacherLogprobs]:
    found = source.targets(asked, k=k, draws=draws, seeds=[0] * len(asked), open_model=lambda: twin)
    return dict(found)


class Spoiled(Endpoint):
    """An endpoint whose rows are changed on their way: for what the endpoint never says."""

    def __init__(
        self, endpoint: ChatEndpoint, spoil: Callable[[Rows], object], after: int = 0
    ) -> None:
        super().__init__(
            "tiny-chat",
            endpoint.url,
            "OPENAI_API_KEY",
            gate=Gate(),
            timeout=5.0,
            max_retries=0,
            connections=4,
        )
        self._spoil, self._after = spoil, after

    def complete(self, prompt: Sequence[int], body: Mapping[str, Any]) -> str:
        text = super().complete(prompt, body)
        if self.asked != self._after + 1:
            return text
        found = json.loads(text)
        choice = found["choices"][0]
        changed = self._spoil(choice["prompt_logprobs"])
        choice["prompt_logprobs"] = choice["prompt_logprobs"] if changed is None else changed
        return json.dumps(found)
