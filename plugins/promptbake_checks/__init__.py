"""An evaluator: the share of answers that match a regular expression."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from promptbake.errors import BakeError
from promptbake.interfaces import EvalContext, Evaluator
from promptbake.plugins.hookspecs import Factories, hookimpl
from promptbake.types import ARMS, Arm, Measurement

PROMPTBAKE_API = 1


class Checks:
    """One measurement a pattern, searched for in each arm's answers to the test questions."""

    def __init__(self, patterns: Mapping[str, re.Pattern[str]]) -> None:
        self._patterns = patterns

    def evaluate(self, evidence: EvalContext) -> Sequence[Measurement]:
        """The share of the answers that match, from 0 to 1, for each arm."""
        return [
            Measurement(name, "share of answers", self._shares(pattern, evidence))
            for name, pattern in self._patterns.items()
        ]

    def _shares(self, pattern: re.Pattern[str], evidence: EvalContext) -> dict[Arm, float]:
        shares: dict[Arm, float] = {}
        for arm in ARMS:
            texts = [answer.texts[arm] for answer in evidence.answers if arm in answer.texts]
            if texts:
                shares[arm] = sum(bool(pattern.search(text)) for text in texts) / len(texts)
        return shares


def checks(*, patterns: dict[str, str]) -> Evaluator:
    """Search for each of the `patterns`, Python regular expressions by name."""
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
