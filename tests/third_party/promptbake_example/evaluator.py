"""An evaluator: how much an answer repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

from promptbake import ARMS, NO_COST, Arm, CostEstimate, EvalContext, Measurement


class Repetition:
    """1 - different words / words, of each answer."""

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """Nothing is sent."""
        return NO_COST

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """A share from 0 to 1 for each test question and each arm that answered it."""
        scores: dict[Arm, dict[str, float]] = {
            arm: {
                answers.query.id: _repetition(answers.texts[arm])
                for answers in context.answers
                if arm in answers.texts
            }
            for arm in ARMS
        }
        return [Measurement("repetition", "share of words", scores, better="lower")]


def _repetition(text: str) -> float:
    words = text.lower().split()
    return 1 - len(set(words)) / len(words) if words else 0.0
