"""Evaluators that look where a bake may fail: new queries, long talks, neutral text, own words."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt

from promptbake import Evaluator, Factories, hookimpl

PROMPTBAKE_API = 2

Count = Annotated[int, Gt(0)]
ShiftSet = Literal[
    "code",
    "arithmetic",
    "language",
    "document",
    "form",
    "email",
    "pushback",
    "turn_4",
    "turn_8",
]


def shift(
    *,
    sets: tuple[ShiftSet, ...] | None = None,
    items: Count | None = None,
    max_tokens: Count = 48,
) -> Evaluator:
    """Measure KL(prompted || arm) on queries unlike those of the bake, base beside baked.

    Args:
        sets: Which sets, each a measurement; all of them where it is not set.
        items: How many queries of each set, from the first on; all where it is not set.
        max_tokens: The most tokens of a response.
    """
    from promptbake_fidelity.unseen_queries import Shift

    return Shift(sets, items, max_tokens)


def drift(*, items: Count = 4, max_tokens: Count = 32) -> Evaluator:
    """Measure KL(prompted || arm) at rounds 1, 4 and 8 of conversations, base beside baked.

    Args:
        items: How many conversations, from the first on; there are 6.
        max_tokens: The most tokens of a response.
    """
    from promptbake_fidelity.long_conversations import Drift

    return Drift(items, max_tokens)


def retention(*, items: Count | None = None) -> Evaluator:
    """Measure what is left of the base model on neutral text: base, prompted and baked.

    Args:
        items: How many passages, questions and sums, from the first on; all where it is not set.
    """
    from promptbake_fidelity.neutral_text import Retention

    return Retention(items)


def extraction(*, items: Count | None = None, max_tokens: Count = 96) -> Evaluator:
    """Measure how much of the prompt an arm recites when it is asked for it.

    Args:
        items: How many requests, from the first on; all where it is not set.
        max_tokens: The most tokens of an answer.
    """
    from promptbake_fidelity.recitation import Extraction

    return Extraction(items, max_tokens)


def reverse_kl(*, items: Count = 15, max_tokens: Count = 48) -> Evaluator:
    """Measure KL(arm || prompted) on base's and baked's own responses to held-out queries.

    The KL that every bake is measured by is forward: on what the prompted model says. An arm may
    be close there, and yet say things by itself that the prompted model never would.

    Args:
        items: Held-out queries at most; each is answered once by base and once by the baked model.
        max_tokens: The most tokens of a response.
    """
    from promptbake_fidelity.own_responses import ReverseKL

    return ReverseKL(items, max_tokens)


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluators `shift`, `drift`, `retention`, `extraction` and `reverse_kl`."""
    return {
        "shift": shift,
        "drift": drift,
        "retention": retention,
        "extraction": extraction,
        "reverse_kl": reverse_kl,
    }
