"""The store of an evaluator's responses and numbers, by what they depend on."""

from __future__ import annotations

from promptbake import Arm, EvalContext, MeasurementStore


def open_store(context: EvalContext) -> MeasurementStore:
    """The store in the context's cache; in memory where there is none, or weights are unknown."""
    known = all(arm.weights is not None for arm in context.arms.values())
    path = context.cache / "measurements.jsonl" if context.cache is not None and known else None
    return MeasurementStore(path, context.say, anew=context.anew)


def weights_of(context: EvalContext, name: Arm) -> str:
    """What stands for an arm's weights in a key.

    The arm's name is in it: weights that are not known may be those of any model.
    """
    return f"{name} {context.arms[name].weights}"
