"""An evaluator that samples and scores the arms: perplexity, base beside baked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from promptbake import (
    Arm,
    Conversation,
    CostEstimate,
    EvalArm,
    EvalContext,
    LogprobsWork,
    Measurement,
    Message,
    SampleWork,
    Span,
    Usage,
    derive,
)

ARMS: tuple[Arm, ...] = ("base", "baked")
QUESTION = (Message("user", "What is a tide?"),)
SAMPLED = 6  # tokens


class Perplexity:
    """Of a text and of the held-out responses; and the most that one token's KL comes to."""

    def __init__(self, text: str, dollars: float) -> None:
        self._text, self._dollars = text, dollars

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """A short sample and one scoring of each item, for each arm."""
        model = context.arms["base"].open_model()
        prompt = len(model.renderer.prompt(QUESTION))
        cost = model.estimate_cost(SampleWork(((prompt, SAMPLED),), times=len(ARMS)))
        cost += model.estimate_cost(LogprobsWork(((prompt + SAMPLED, SAMPLED),), times=len(ARMS)))
        return cost + CostEstimate(Usage(dollars=self._dollars), priced=True, seconds=0.0)

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """Scores by item: the text, each held-out conversation, and a text that the arm sampled."""
        reservation = context.budget.reserve("perplexity", Usage(dollars=self._dollars))
        text = Conversation("text", "text", (*QUESTION, Message("assistant", self._text)))
        items = [text, *context.held_out]
        scores: dict[Arm, dict[str, float]] = {}
        for name in ARMS:
            arm = context.arms[name]
            scores[name] = dict(zip((each.id for each in items), _score(arm, items), strict=True))
            sampled = _sample(arm, derive(context.seed, "perplexity"))
            scores[name]["sampled"] = _score(arm, [sampled])[0]
            context.progress(1 / len(ARMS))
        reservation.commit(Usage(dollars=self._dollars))
        if context.cache is not None:
            context.cache.mkdir(parents=True, exist_ok=True)
            (context.cache / "seed.txt").write_text(str(context.seed))
        worst: dict[Arm, dict[str, float]] = {
            name: {
                conversation.id: max(nats)
                for conversation, nats in zip(context.held_out, kl.by_token, strict=True)
            }
            for name, kl in context.held_out_kl.items()
        }
        return [
            Measurement("perplexity", "per token", scores, better="lower"),
            Measurement("worst token", "nats", worst, better="lower"),
        ]


def _score(arm: EvalArm, items: Sequence[Conversation]) -> list[float]:
    """Each item's perplexity under the arm's own prompt."""
    model = arm.open_model()
    spans, ids = [], []
    for item in items:
        response = model.renderer.response(item.response, item.complete)
        prompt = model.renderer.prompt(item.messages[:-1], arm.system)
        spans.append(Span(prompt + response, len(response)))
        ids.append(torch.tensor(response).unsqueeze(1))
    return [math.exp(-float(row.mean())) for row in model.logprobs(spans, ids)]


def _sample(arm: EvalArm, seed: int) -> Conversation:
    model = arm.open_model()
    prompt = model.renderer.prompt(QUESTION, arm.system)
    drawn = model.sample([prompt], max_tokens=SAMPLED, temperatures=[1.0], seeds=[seed])
    ((_, completion),) = drawn
    text = model.renderer.text(completion.tokens) or "Arr"
    return Conversation("sampled", "sampled", (*QUESTION, Message("assistant", text)), False)
