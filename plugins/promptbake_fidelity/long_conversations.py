"""The evaluator `drift`: does the bake hold over a conversation of eight rounds?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from promptbake import (
    Arm,
    Conversation,
    CostEstimate,
    EvalContext,
    Measurement,
    MeasurementStore,
    Message,
)
from promptbake_fidelity.arm_kl import ArmKL, Lengths, kl_cost
from promptbake_fidelity.items import Script, first, read
from promptbake_fidelity.progress import Part
from promptbake_fidelity.responses import Sampling, sample_responses, sampling_cost
from promptbake_fidelity.store import open_store

MEASURED: tuple[Arm, ...] = ("base", "baked")
ROUNDS = (1, 4, 8)  # that are measured
SAMPLING_SHARE = 0.6  # of the work


class Drift:
    """Scores the prompted model's turns in scripted conversations, base beside baked."""

    def __init__(self, items: int, max_tokens: int) -> None:
        self._scripts = first(read(Script, "drift.jsonl"), items)
        self._sampling = Sampling("drift", max_tokens, temperature=1.0)

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """A response in each round, of which three arms score those of three rounds."""
        most = self._sampling.max_tokens
        prompts = {
            name: [self._prompt_lengths(context, name, n) for n in range(1, ROUNDS[-1] + 1)]
            for name in ("prompted", *MEASURED)
        }
        rows: dict[Arm, Sequence[Lengths]] = {
            name: [(length + most, most) for round_ in ROUNDS for length in by_round[round_ - 1]]
            for name, by_round in prompts.items()
        }
        sampled = [length for by_script in prompts["prompted"] for length in by_script]
        cost = sampling_cost(context, "prompted", sampled, most)
        return cost + kl_cost(context, "prompted", rows)

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """`drift.round_<n>`: KL(prompted || arm) by conversation, nats per response token."""
        store = open_store(context)
        by_round = self._converse(context, store)
        part = Part(context.progress, 1 - SAMPLING_SHARE, len(ROUNDS) * len(MEASURED))
        measurements = []
        for round_ in ROUNDS:
            kl = ArmKL(context, "prompted", by_round[round_], store)
            scores = dict[Arm, dict[str, float]]()
            for arm in MEASURED:
                scores[arm] = kl.of(arm)
                part.advance()
            measurements.append(Measurement(f"drift.round_{round_}", "nats/token", scores, "lower"))
        return measurements

    def _converse(
        self, context: EvalContext, store: MeasurementStore
    ) -> Mapping[int, Sequence[Conversation]]:
        """The conversations up to the response of each round, from 1 on."""
        by_round: dict[int, list[Conversation]] = {}
        for round_ in range(1, ROUNDS[-1] + 1):
            before = by_round.get(round_ - 1)
            queries = {
                script.id: (
                    *(before[index].messages if before else ()),
                    Message("user", script.turns[round_ - 1]),
                )
                for index, script in enumerate(self._scripts)
            }
            part = Part(context.progress, SAMPLING_SHARE / ROUNDS[-1], len(queries))
            by_round[round_] = sample_responses(
                context, "prompted", queries, self._sampling, store, part
            )
        return by_round

    def _prompt_lengths(self, context: EvalContext, name: Arm, round_: int) -> list[int]:
        """Tokens of each conversation up to a round, with every response at its longest."""
        arm = context.arms[name]
        renderer, lengths = arm.open_model().renderer, []
        for script in self._scripts:
            turns = [Message("user", script.turns[0])]
            for text in script.turns[1:round_]:
                turns += [Message("assistant", ""), Message("user", text)]
            responses = (round_ - 1) * self._sampling.max_tokens
            lengths.append(len(renderer.prompt(turns, arm.system)) + responses)
        return lengths
