"""The evaluator `retention`: what is left of the base model where the prompt says nothing?"""

from __future__ import annotations

from collections.abc import Sequence

from promptbake import (
    Arm,
    Conversation,
    CostEstimate,
    EvalContext,
    LogprobsWork,
    Measurement,
    MeasurementStore,
)
from promptbake_fidelity.arm_kl import ArmKL, Lengths, kl_cost
from promptbake_fidelity.items import Choice, Passage, first, read
from promptbake_fidelity.likelihood import response_logprobs, spans_of
from promptbake_fidelity.progress import Part
from promptbake_fidelity.store import open_store

ARMS: tuple[Arm, ...] = ("base", "prompted", "baked")
CHOICE_SETS = ("choice", "arithmetic")
Scores = dict[Arm, dict[str, float]]


class Retention:
    """Scores neutral passages, and the answers to questions and sums, under each arm's prompt."""

    def __init__(self, items: int | None) -> None:
        self._passages = [
            each.conversation for each in first(read(Passage, "passages.jsonl"), items)
        ]
        every = read(Choice, "choices.jsonl")
        self._choices = {
            name: first([each for each in every if each.set == name], items) for name in CHOICE_SETS
        }
        self._answers = [
            conversation
            for each in self._choices.values()
            for choice in each
            for conversation in choice.conversations
        ]

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """Two passes over the passages, and one over the answers, of three arms."""
        passages = {arm: _lengths(context, arm, self._passages) for arm in ARMS}
        cost = kl_cost(context, "base", passages)
        for arm in ARMS:
            rows = (*passages[arm], *_lengths(context, arm, self._answers))
            cost += context.arms[arm].open_model().estimate_cost(LogprobsWork(rows))
        return cost

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """KL(base || arm) and negative log-likelihood by passage, and the shares that are right."""
        store = open_store(context)
        part = Part(context.progress, 1.0, 2 * len(ARMS) - 1)
        kl, to_base, likelihoods = ArmKL(context, "base", self._passages, store), Scores(), Scores()
        for arm in ARMS:
            if arm != "base":
                to_base[arm] = kl.of(arm)
                part.advance()
            likelihoods[arm] = self._likelihoods(context, arm, store)
            part.advance()
        nll: Scores = {
            arm: {each.id: -logprobs[each.id] for each in self._passages}
            for arm, logprobs in likelihoods.items()
        }
        return [
            Measurement("retention.kl_to_base", "nats/token", to_base, "lower"),
            Measurement("retention.nll", "nats/token", nll, "lower"),
            *(
                Measurement(
                    f"retention.{name}",
                    "share right",
                    {
                        arm: {choice.id: _is_right(choice, logprobs) for choice in choices}
                        for arm, logprobs in likelihoods.items()
                    },
                    "higher",
                )
                for name, choices in self._choices.items()
            ),
        ]

    def _likelihoods(
        self, context: EvalContext, arm: Arm, store: MeasurementStore
    ) -> dict[str, float]:
        """By conversation: a passage's nats per token, an answer's nats with its end of turn."""
        passages = response_logprobs(context, arm, self._passages, store)
        answers = response_logprobs(context, arm, self._answers, store)
        logprobs = {
            each.id: nats / tokens
            for each, (nats, tokens) in zip(self._passages, passages, strict=True)
        }
        return logprobs | {
            each.id: nats for each, (nats, _) in zip(self._answers, answers, strict=True)
        }


def _is_right(choice: Choice, logprobs: dict[str, float]) -> float:
    """1 where the right answer, which is the first one, is more likely than each other."""
    right, *others = (logprobs[each.id] for each in choice.conversations)
    return float(right > max(others))


def _lengths(
    context: EvalContext, arm: Arm, conversations: Sequence[Conversation]
) -> tuple[Lengths, ...]:
    spans = spans_of(context, arm, conversations)
    return tuple((len(span.tokens), span.n_response) for span in spans)
