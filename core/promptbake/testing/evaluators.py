"""The conformance suite for evaluators."""

from __future__ import annotations

from promptbake.testing.suite import Suite


class EvaluatorSuite(Suite):
    """Fixture `evaluator`."""
