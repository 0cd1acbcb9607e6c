"""Sequences of the tiny tokenizer, and what a plain forward pass of a module scores them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from promptbake import Datum, Example, Message, Span
from promptbake.distill.objective import TailedLoss
from promptbake_losses.divergences import ForwardKL
from promptbake_torch import LoraTrainer, TorchModel

SYSTEM = "Answer like a pirate who has lost his map."
OBJECTIVE = TailedLoss(ForwardKL(), "bucket")
DIALOGUES = {
    "How are you?": "Aye.",
    "Why is the sea salty, and the rain not?": "Salt!",
    "Sing!": "Yo ho ho ho",
}


def prompts(model: TorchModel, system: str | None = SYSTEM) -> list[tuple[int, ...]]:
    return [model.renderer.prompt((Message("user", text),), system) for text in DIALOGUES]


def spans(model: TorchModel, system: str | None = SYSTEM) -> list[Span]:
    """Three sequences of different lengths with responses of different lengths."""
    responses = [model.renderer.response(text, True) for text in DIALOGUES.values()]
    return [
        Span(prompt + response, len(response))
        for prompt, response in zip(prompts(model, system), responses, strict=True)
    ]


def plain_logprobs(module: Any, span: Span) -> Tensor:
    """Log-probabilities [N, V] at the response, of one sequence alone, without a cache."""
    logits = module(input_ids=torch.tensor([span.tokens]), use_cache=False).logits[0]
    logprobs: Tensor = logits[-span.n_response - 1 : -1].float().log_softmax(dim=1)
    return logprobs


def examples(model: TorchModel, k: int = 10) -> list[Example]:
    pairs = list(zip(spans(model, None), spans(model), strict=True))
    scored = model.top_k([teacher for _, teacher in pairs], k=k, draws=0, seeds=[0] * len(pairs))
    datums = [Datum("c", "q", s.tokens, t.tokens, s.n_response) for s, t in pairs]
    return [
        Example(datum, OBJECTIVE.support(datum, scores))
        for datum, (_, scores) in zip(datums, scored, strict=True)
    ]


def train(trainer: LoraTrainer, batch: list[Example], steps: int, lr: float) -> list[float]:
    """The loss of each step."""
    losses = []
    for _ in range(steps):
        losses.append(trainer.forward_backward(batch, OBJECTIVE).result())
        trainer.optim_step(lr).result()
    return losses
