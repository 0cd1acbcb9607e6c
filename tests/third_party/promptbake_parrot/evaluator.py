"""An evaluator: how much an answer repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

from promptbake import ARMS, Arm, EvalContext, Measurement


class Repetition:
    """1 - different words / words, as a mean over the answers that have words."""

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """A share from 0 to 1 for each arm that answered."""
        values: dict[Arm, float] = {}
        for arm in ARMS:
            texts = [answer.texts[arm] for answer in evidence.answers if arm in answer.texts]
            if texts:
                values[arm] = sum(map(_repetition, texts)) / len(texts)
        return [Measurement("repetition", "share of words", values)]


def _repetition(text: str) -> float:
    words = text.lower().split()
    return 1 - len(set(words)) / len(words) if words else 0.0
