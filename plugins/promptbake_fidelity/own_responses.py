"""The evaluator `reverse_kl`: does the baked model say things that the prompted one never would?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from promptbake import NO_COST, Arm, CostEstimate, EvalContext, Measurement, Message
from promptbake_fidelity.arm_kl import ArmKL, kl_cost
from promptbake_fidelity.progress import Part
from promptbake_fidelity.responses import Sampling, Turns, sample_responses, sampling_cost
from promptbake_fidelity.store import open_store

MEASURED: tuple[Arm, ...] = ("base", "baked")
SAMPLING_SHARE = 0.3  # of the work, for each arm
TYPICAL: Turns = (Message("user", "What would you say to a friend of yours?"),)


class ReverseKL:
    """Lets base and baked model answer held-out queries, and scores both beside the prompt."""

    def __init__(self, items: int, max_tokens: int) -> None:
        self._items = items
        self._sampling = Sampling("reverse_kl", max_tokens, temperature=1.0)

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """A response to each query by each arm, which the arm and the prompted one score.

        Before there are held-out queries, so many typical ones are counted.
        """
        queries = list(islice(_queries(context).values(), self._items)) or [TYPICAL] * self._items
        most, cost = self._sampling.max_tokens, NO_COST
        prompted = list(_lengths(context, "prompted", queries))
        for name in MEASURED:
            own = list(_lengths(context, name, queries))
            cost += sampling_cost(context, name, own, most)
            rows = {name: own, "prompted": prompted}
            spans = {arm: [(each + most, most) for each in rows[arm]] for arm in rows}
            cost += kl_cost(context, name, spans)
        return cost

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """KL(arm || prompted) by query, nats per token of the arm's own response."""
        store = open_store(context)
        queries = dict(islice(_queries(context).items(), self._items))
        scores = dict[Arm, dict[str, float]]()
        for name in MEASURED:
            part = Part(context.progress, SAMPLING_SHARE, len(queries))
            responses = sample_responses(context, name, queries, self._sampling, store, part)
            scores[name] = ArmKL(context, name, responses, store).of("prompted")
            context.progress(1 / len(MEASURED) - SAMPLING_SHARE)
        return [Measurement("reverse_kl", "nats/token", scores, "lower")]


def _queries(context: EvalContext) -> dict[str, Turns]:
    """The held-out queries, by id."""
    return {each.query_id: each.messages[:-1] for each in context.held_out}


def _lengths(context: EvalContext, name: Arm, queries: Sequence[Turns]) -> Iterator[int]:
    """How many tokens each query has, as the arm reads it."""
    renderer, system = context.arms[name].open_model().renderer, context.arms[name].system
    return (len(renderer.prompt(turns, system)) for turns in queries)
