"""An evaluator: the share of answers that match a regular expression."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from promptbake import (
    ARMS,
    NO_COST,
    Arm,
    BakeError,
    CostEstimate,
    EvalContext,
    Evaluator,
    Factories,
    Measurement,
    hookimpl,
)

PROMPTBAKE_API = 2


class Checks:
    """Searches for each pattern in each arm's answers to the test questions."""

    def __init__(self, patterns: Mapping[str, re.Pattern[str]]) -> None:
        self._patterns = patterns

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """Nothing is sent."""
        return NO_COST

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """One measurement a pattern: 1 for an answer that matches, 0 for one that does not."""
        return [
            Measurement(name, "share of answers", self._matches(pattern, context))
            for name, pattern in self._patterns.items()
        ]

    def _matches(
        self, pattern: re.Pattern[str], context: EvalContext
    ) -> dict[Arm, dict[str, float]]:
        return {
            arm: {
                answers.query.id: float(bool(pattern.search(answers.texts[arm])))
                for answers in context.answers
                if arm in answers.texts
            }
            for arm in ARMS
        }


def checks(*, patterns: dict[str, str]) -> Evaluator:
    """Measure the share of answers that match a pattern.

    Args:
        patterns: Python regular expressions by name; each is a measurement.
    """
    compiled = {}
    for name, pattern in patterns.items():
        try:
            compiled[name] = re.compile(pattern)
        except re.error as error:
            key = f"options.evaluators.checks.patterns.{name}"
            raise BakeError(f"{key}: {pattern!r} is no regular expression: {error}") from None
    return Checks(compiled)


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluator `checks`."""
    return {"checks": checks}
