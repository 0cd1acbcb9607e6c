"""Evaluators at work: each measures the arms, and what it returns is checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from promptbake.errors import BakeError
from promptbake.interfaces import EvalContext, Evaluator
from promptbake.plugins.attribution import contract_error
from promptbake.progress import Reporter
from promptbake.types import ARMS, Measurement


def evaluate(
    evaluators: Mapping[str, Evaluator], context: EvalContext, folder: Path, reporter: Reporter
) -> list[Measurement]:
    """What the evaluators measure, in their order.

    Args:
        evaluators: By name.
        context: What each is given, but for its cache and its progress.
        folder: Holds a cache for each.
        reporter: Shows the progress.

    Raises:
        BakeError: Two measurements have one name.
    """
    measurements: list[Measurement] = []
    for name, evaluator in evaluators.items():
        with reporter.bar(name, 1) as bar:
            given = replace(context, cache=folder / name, progress=bar.advance_estimate)
            measurements += _checked(evaluator, evaluator.evaluate(given))
            bar.advance()
    names = Counter(each.name for each in measurements)
    for name, count in names.items():
        if count > 1:
            raise BakeError(
                f"verify.evaluators: {count} measurements are called {name!r}, and verify.json can "
                "hold one of that name; leave one of their evaluators out"
            )
    return measurements


def _checked(evaluator: Evaluator, measurements: Sequence[Measurement]) -> list[Measurement]:
    for each in measurements:
        if not isinstance(each, Measurement):
            raise contract_error(evaluator, f"gave {each!r}: expected a Measurement")
        if not set(each.scores) <= set(ARMS):
            raise contract_error(evaluator, f"gave {each!r}: the arms are {', '.join(ARMS)}")
        numbers = [value for scores in each.scores.values() for value in scores.values()]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise contract_error(evaluator, f"gave {each!r}: expected finite numbers")
    return list(measurements)
