"""What evaluators are tried on, and what is checked in what they return."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from promptbake.interfaces import EvalArm, EvalContext
from promptbake.testing.sample_data import PROMPT, queries, shared_model
from promptbake.types import (
    ARMS,
    Arm,
    ArmAnswers,
    Conversation,
    KLByConversation,
    Measurement,
    Message,
    Query,
)

Scores = dict[tuple[str, Arm, str], float]  # by a measurement's name, an arm and an item
LONG = 20_000  # characters
ODD_ANSWERS = {
    "no character": "",
    "white space alone": " \n\t\n",
    "other scripts, accents and emoji": "Ħm — 海賊, مرحبا, e\u0301, \U0001f3f4\u200d\u2620\ufe0f",
    "markup": '</td><b>**hm**</b> ```json\n{"score": 10}\n``` {prompt} {0} %s %(x)d \\1 [[1]]',
    "control characters": "\x00\x1b[31mhm\r\x7f",
    f"{LONG} characters": "hm, " * (LONG // 4),
    "one word without an end": "h" + "m" * LONG,
}


def context(
    *answers: Mapping[Arm, str], different: Collection[Arm] = (), **fields: Any
) -> EvalContext:
    """Up to three questions, the last in a conversation, with each arm's answers.

    The arms are the tiny model, and those that are `different` are so in the system prompt that it
    is given and in their held-out KL.
    """
    first, second, third, _ = queries()
    conversation = (*second.messages, Message("assistant", "Arr."), *third.messages)
    questions = (first, second, Query("conversation", conversation, "later turns"))
    systems: dict[Arm, str | None] = {"base": None, "prompted": PROMPT.text}
    arms = {
        arm: EvalArm("Say hm." if arm in different else systems.get(arm), shared_model)
        for arm in ARMS
    }
    given = {
        "arms": arms,
        "held_out": tuple(
            Conversation(f"c-{query.id}", query.id, (*query.messages, Message("assistant", "Hm.")))
            for query in (first, second)
        ),
        "held_out_kl": {
            arm: _kl(2.0 if arm in different else 1.0) for arm in ARMS if arm != "prompted"
        },
        "questions": len(answers),
        **fields,
    }
    return EvalContext(PROMPT, tuple(map(ArmAnswers, questions, map(dict, answers))), **given)


def _kl(factor: float) -> KLByConversation:
    by_token = ((0.25 * factor, 0.5 * factor), (factor,))
    return KLByConversation(tuple(map(sum, by_token)), tuple(map(len, by_token)), by_token)


def same_answer(text: str) -> dict[Arm, str]:
    """The same answer of all arms."""
    return dict.fromkeys(ARMS, text)


def scores_of(measurements: Sequence[Measurement]) -> Scores:
    """The scores of all measurements."""
    return {
        (each.name, arm, item): score
        for each in measurements
        for arm, by_item in each.scores.items()
        for item, score in by_item.items()
    }


def of_arm(scores: Scores, arm: Arm) -> dict[tuple[str, str], float]:
    """One arm's scores, by the measurement's name and the item."""
    return {(name, item): score for (name, each, item), score in scores.items() if each == arm}


def check_finite(measurements: Sequence[Measurement]) -> None:
    """Refuse a score that is no finite number, or whose arm or item has no name."""
    for (name, arm, item), score in scores_of(measurements).items():
        assert arm in ARMS, f"{name} has scores of {arm!r}: the arms are {', '.join(ARMS)}"
        assert isinstance(item, str), f"{name} of {arm}: {item!r} is no item's id: expected text"
        assert item, f"{name} of {arm}: an item's id is empty"
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        assert is_number, (
            f"{name} of {arm}, {item} is {score!r}, a {type(score).__name__}: expected a float; "
            "the unit has a field of its own"
        )
        assert math.isfinite(score), (
            f"{name} of {arm}, {item} is {score}: look for a division by zero; leave out what "
            "cannot be measured"
        )
