"""The evaluator `shift`: does the bake hold on queries that are unlike those it was trained on?"""

from __future__ import annotations

from collections.abc import Sequence

from promptbake import Arm, CostEstimate, EvalContext, Measurement
from promptbake_fidelity.arm_kl import ArmKL, kl_cost
from promptbake_fidelity.items import ShiftItem, first, read
from promptbake_fidelity.progress import Part
from promptbake_fidelity.responses import Sampling, sample_responses, sampling_cost
from promptbake_fidelity.store import open_store

MEASURED: tuple[Arm, ...] = ("base", "baked")
SAMPLING_SHARE = 0.4  # of the work


class Shift:
    """Scores the prompted model's responses to each set of queries, base beside baked."""

    def __init__(self, sets: Sequence[str] | None, items: int | None, max_tokens: int) -> None:
        every = read(ShiftItem, "shift.jsonl")
        names = dict.fromkeys(sets if sets is not None else (item.set for item in every))
        self._sets = {
            name: first([item for item in every if item.set == name], items) for name in names
        }
        self._queries = {item.id: item.messages for each in self._sets.values() for item in each}
        self._sampling = Sampling("shift", max_tokens, temperature=1.0)

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """A response to each query, which three arms score."""
        most = self._sampling.max_tokens
        lengths = {
            name: [
                len(context.arms[name].open_model().renderer.prompt(turns, arm.system))
                for turns in self._queries.values()
            ]
            for name, arm in context.arms.items()
            if name in ("prompted", *MEASURED)
        }
        rows = {
            name: [(each + most, most) for each in prompts] for name, prompts in lengths.items()
        }
        cost = sampling_cost(context, "prompted", lengths["prompted"], most)
        return cost + kl_cost(context, "prompted", rows)

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """`shift.<set>` of each set: KL(prompted || arm) by query, nats per response token."""
        store = open_store(context)
        part = Part(context.progress, SAMPLING_SHARE, len(self._queries))
        responses = {
            each.id: each
            for each in sample_responses(
                context, "prompted", self._queries, self._sampling, store, part
            )
        }
        part = Part(context.progress, 1 - SAMPLING_SHARE, len(self._sets) * len(MEASURED))
        measurements = []
        for name, items in self._sets.items():
            kl = ArmKL(context, "prompted", [responses[item.id] for item in items], store)
            scores = dict[Arm, dict[str, float]]()
            for arm in MEASURED:
                scores[arm] = kl.of(arm)
                part.advance()
            measurements.append(Measurement(f"shift.{name}", "nats/token", scores, "lower"))
        return measurements
