"""What evaluators are tried on, and what is looked at in what they give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from promptbake.interfaces import EvalContext
from promptbake.testing.sample_data import PROMPT, queries
from promptbake.types import ARMS, Arm, ArmAnswers, Measurement, Message, Query

Values = dict[tuple[str, Arm], float]  # by a measurement's name and an arm
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


def evidence(*answers: Mapping[Arm, str]) -> EvalContext:
    """Up to three questions, the last in a conversation, with what each arm answered."""
    first, second, third, _ = queries()
    talk = (*second.messages, Message("assistant", "Arr."), *third.messages)
    asked = (first, second, Query("talk", talk, "later turns"))
    return EvalContext(PROMPT, tuple(map(ArmAnswers, asked, map(dict, answers))))


def alike(text: str) -> dict[Arm, str]:
    """The same answer of all arms."""
    return dict.fromkeys(ARMS, text)


def values(found: Sequence[Measurement]) -> Values:
    """The values of all measurements."""
    return {(each.name, arm): value for each in found for arm, value in each.values.items()}


def of_arm(found: Values, arm: Arm) -> dict[str, float]:
    """One arm's values, by the measurement's name."""
    return {name: value for (name, each), value in found.items() if each == arm}


def check_finite(found: Sequence[Measurement]) -> None:
    """Refuse what is no finite number, or no arm's."""
    for (name, arm), value in values(found).items():
        assert arm in ARMS, f"{name} has a value for {arm!r}: the arms are {', '.join(ARMS)}"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        assert is_number, (
            f"{name} of {arm} is {value!r}, a {type(value).__name__}: expected a float; its unit "
            "has a place of its own"
        )
        assert math.isfinite(value), (
            f"{name} of {arm} is {value}: look for a division by zero; leave out an arm that "
            "cannot be measured"
        )
