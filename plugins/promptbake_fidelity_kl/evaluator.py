"""Samples base and baked model on held-out queries, and scores what they say beside the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptbake import (
    Arm,
    BakeError,
    CostEstimate,
    EvalArm,
    EvalContext,
    LogprobsWork,
    Measurement,
    Message,
    Model,
    SampleWork,
    Span,
    TokenIds,
    TopKWork,
    derive,
)

MEASURED: tuple[Arm, ...] = ("base", "baked")
TOP_K = 20  # where the whole vocabulary cannot be had; the rest is one bucket
CHUNK = 4  # responses scored at a time, each [N, V]
FLOOR = 1e-12  # of the bucket's mass


@dataclass(frozen=True)
class Item:
    """A response of an arm's own, as the arm and as the prompted model read it."""

    query_id: str
    own: Span
    prompted: Span


class ReverseKL:
    """KL(arm || prompted) in nats per token of the arm's own responses, by query."""

    def __init__(self, items: int, max_tokens: int) -> None:
        for name, value in (("items", items), ("max_tokens", max_tokens)):
            if value < 1:
                key = f"options.evaluators.reverse_kl.{name}"
                raise BakeError(f"{key}: expected at least 1; found {value}")
        self._items, self._max_tokens = items, max_tokens

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """Sampling by two arms, and scoring of each response by its arm and the prompted model."""
        model = context.arms["base"].open_model()
        count = min(self._items, len(_queries(context)) or self._items)
        bare, prompted = (self._row(model, context.arms[arm]) for arm in ("base", "prompted"))
        times = len(MEASURED)
        own = (bare,) * count
        estimate = model.estimate_cost(SampleWork((bare,) * count, 0, times=times))
        scored = LogprobsWork(own, 0, times=times)
        if not model.full_vocabulary:
            estimate += model.estimate_cost(TopKWork(own * times, 0, draws=0))
        else:
            estimate += model.estimate_cost(scored)
        return estimate + model.estimate_cost(LogprobsWork((prompted,) * count, 0, times=times))

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """One measurement: nats per token of each query's response, of base and baked."""
        scores = {}
        for arm in MEASURED:
            items = self._respond(context, arm)
            values = list(_kl(context, arm, items))
            scores[arm] = dict(zip((item.query_id for item in items), values, strict=True))
            context.progress(1 / len(MEASURED))
        return [Measurement("reverse_kl", "nats/token", scores, better="lower")]

    def _row(self, model: Model, arm: EvalArm) -> tuple[int, int]:
        """Tokens of a sequence, and of its response at its longest."""
        question = (Message("user", "What would you say to a friend of yours?"),)
        return len(model.renderer.prompt(question, arm.system)) + self._max_tokens, self._max_tokens

    def _respond(self, context: EvalContext, name: Arm) -> list[Item]:
        """The arm's own responses; one without a token is left out."""
        arm, teacher = context.arms[name], context.arms["prompted"]
        model, renderer = arm.open_model(), arm.open_model().renderer
        queries = list(_queries(context).items())[: self._items]
        prompts = [renderer.prompt(messages, arm.system) for _, messages in queries]
        completions = dict(
            model.sample(
                prompts,
                max_tokens=self._max_tokens,
                temperatures=[1.0] * len(prompts),
                seeds=[derive(context.seed, "reverse_kl", query_id) for query_id, _ in queries],
            )
        )
        items = []
        for index, (query_id, messages) in enumerate(queries):
            completion = completions[index]
            text = renderer.text(completion.tokens)
            response = renderer.response(text, completion.complete)
            if response:
                prompted = renderer.prompt(messages, teacher.system)
                items.append(
                    Item(
                        query_id,
                        _span(prompts[index], response, query_id),
                        _span(prompted, response, query_id),
                    )
                )
        return items


def _queries(context: EvalContext) -> dict[str, tuple[Message, ...]]:
    """The held-out queries, by id."""
    return {each.query_id: each.messages[:-1] for each in reversed(context.held_out)}


def _span(prompt: TokenIds, response: TokenIds, query_id: str) -> Span:
    return Span(prompt + response, len(response), f"query {query_id}")


def _kl(context: EvalContext, name: Arm, items: Sequence[Item]) -> Iterator[float]:
    """Nats per token of each response."""
    own, prompted = (context.arms[arm].open_model() for arm in (name, "prompted"))
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        spans = [item.own for item in chunk]
        others = [item.prompted for item in chunk]
        if own.full_vocabulary:
            pairs = zip(list(own.logprobs(spans)), prompted.logprobs(others), strict=True)
        else:
            scored = dict(own.top_k(spans, k=TOP_K, draws=0, seeds=[0] * len(spans)))
            ids = [scored[index].ids for index in range(len(chunk))]
            mine = [_with_rest(scored[index].logprobs) for index in range(len(chunk))]
            pairs = zip(mine, map(_with_rest, prompted.logprobs(others, ids)), strict=True)
        for one, other in pairs:
            nats = (one.exp() * (one - other.to(one.device))).sum(dim=1)
            yield float(nats.mean())


def _with_rest(logprobs: Tensor) -> Tensor:
    """With one column more: the log of the mass outside them."""
    rest = (1 - logprobs.exp().sum(dim=1, keepdim=True)).clamp_min(FLOOR).log()
    return torch.cat([logprobs, rest], dim=1)
