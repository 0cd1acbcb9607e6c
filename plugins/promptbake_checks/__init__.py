"""An evaluator: the share of answers that follow a rule which a program can check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from promptbake_checks import rules
from promptbake_checks.rules import Rule

PROMPTBAKE_API = 2

KINDS: dict[str, Callable[[Any, str], Rule]] = {
    "patterns": rules.matches,
    "contains": rules.contains,
    "starts_with": rules.starts_with,
    "ends_with": rules.ends_with,
    "least_words": rules.has_at_least,
    "most_words": rules.has_at_most,
    "letter_case": rules.is_in_case,
    "without_letters": rules.has_no,
    "language": rules.is_in_language,
    "json_schema": rules.fits_schema,
    "entry_points": rules.passes,
}


class Checks:
    """Applies each rule to each arm's answers to the test questions.

    Args:
        by_name: The rules, by the names of their measurements.
    """

    def __init__(self, by_name: Mapping[str, Rule]) -> None:
        self._rules = by_name

    def estimate_cost(self, context: EvalContext) -> CostEstimate:
        """Nothing is sent."""
        return NO_COST

    def evaluate(self, context: EvalContext) -> Sequence[Measurement]:
        """One measurement a rule: 1 for an answer that follows it, 0 for one that does not."""
        return [
            Measurement(name, "share of answers", self._follows(rule, context))
            for name, rule in self._rules.items()
        ]

    def _follows(self, rule: Rule, context: EvalContext) -> dict[Arm, dict[str, float]]:
        return {
            arm: {
                answers.query.id: float(rule(answers.texts[arm]))
                for answers in context.answers
                if arm in answers.texts
            }
            for arm in ARMS
        }


def checks(
    *,
    patterns: dict[str, str] | None = None,
    contains: dict[str, str] | None = None,
    starts_with: dict[str, str] | None = None,
    ends_with: dict[str, str] | None = None,
    least_words: dict[str, int] | None = None,
    most_words: dict[str, int] | None = None,
    letter_case: dict[str, str] | None = None,
    without_letters: dict[str, str] | None = None,
    language: dict[str, str] | None = None,
    json_schema: dict[str, str] | None = None,
    entry_points: dict[str, str] | None = None,
) -> Evaluator:
    """Measure the share of answers that follow each rule.

    Every option has rules of one kind, by their names; each rule is a measurement.

    Args:
        patterns: Python regular expressions, searched for anywhere.
        contains: Texts that an answer has in it, in capitals or small letters.
        starts_with: Texts that an answer begins with.
        ends_with: Texts that an answer ends with.
        least_words: How many words an answer has or more.
        most_words: How many words an answer has or fewer.
        letter_case: 'upper' or 'lower', for all letters of an answer.
        without_letters: Characters that no answer has, such as 'e'.
        language: The ISO 639-1 code of the language that answers are written in.
        json_schema: Files with the JSON Schema that an answer is valid by.
        entry_points: Functions (answer) -> bool that packages offer under 'promptbake.checks'.
    """
    given: dict[str, Mapping[str, Any] | None] = {
        name: value for name, value in locals().items() if name in KINDS
    }
    by_name: dict[str, Rule] = {}
    for kind, named in given.items():
        for name, value in (named or {}).items():
            key = f"options.evaluators.checks.{kind}.{name}"
            if name in by_name:
                raise BakeError(f"{key}: another rule has this name; give each its own")
            by_name[name] = KINDS[kind](value, key)
    if not by_name:
        raise BakeError(
            "options.evaluators.checks: has no rules; give one, such as "
            "options.evaluators.checks.contains.\"says young one\"='young one', or leave `checks` "
            "out of verify.evaluators"
        )
    return Checks(by_name)


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluator `checks`."""
    return {"checks": checks}
