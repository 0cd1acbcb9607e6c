"""How pages write numbers and text: the filters of their templates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

# Control characters are shown as what they are.
CONTROLS = (
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    | {0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")  # they reorder
)
MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
ODDS = 20.0  # to 1, at which an observer is taken to have told two models apart
MOST_TOKENS = 9999


def open_environment() -> Environment:
    """Templates of pages: everything is escaped, and control characters are shown."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "percents": percents,
        "points": points,
        "number": number,
        "numbers": numbers,
        "listed": listed,
        "count": count,
        "tokens_to_tell": tokens_to_tell,
    }
    return environment


def visible(value: Any) -> Any:
    """Text without characters that a page cannot hold or a reader cannot see."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.translate(CONTROLS)


def percent(share: float) -> str:
    """A share, such as 0.771, as `77.1 %`."""
    return _minus(f"{100 * share:.1f}") + f"{NO_BREAK}%"


def percents(interval: Sequence[float]) -> str:
    """An interval of shares: `72.1 to 81.1 %`."""
    low, high = (_minus(f"{100 * end:.1f}") for end in interval)
    return f"{low} to {high}{NO_BREAK}%"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{signed_percent(difference)}{NO_BREAK}points"


def signed_percent(difference: float) -> str:
    """A difference in per cent, with its sign and without a unit; 0 has none."""
    rounded = round(100 * difference, 1)
    return _minus(f"{rounded:+.1f}") if rounded else "0.0"


def number(value: float) -> str:
    """A number to about three digits."""
    if 0 < abs(value) < 0.001:
        return _minus(f"{value:.1e}")
    decimals = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return _minus(f"{value:,.{decimals}f}")


def numbers(interval: Sequence[float]) -> str:
    """An interval: `0.166 to 0.238`."""
    return " to ".join(map(number, interval))


def listed(value: Any) -> str:
    """A setting's value."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def count(amount: int | None, noun: str, nouns: str = "") -> str:
    """How many there are, with the noun; empty where it is not known."""
    if amount is None:
        return ""
    return f"{amount:,} {noun if amount == 1 else nouns or noun + 's'}"


def duration(seconds: float) -> str:
    """A time as `9.4 s` or `6 min 53 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def tokens_to_tell(nats: float) -> str:
    """After how many tokens a KL in nats/token gives odds of `ODDS` to 1, on average."""
    tokens = math.log(ODDS) / nats if nats > 0 else math.inf
    if tokens > MOST_TOKENS:
        return f"more than {MOST_TOKENS:,} tokens"
    return f"{count(max(1, round(tokens)), 'token')}"


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
