"""What text from outside may show: no keys, no passwords, no control characters."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 8  # characters: shorter values, such as "EMPTY" for a local server, are no secrets
SECRET_NAME = re.compile(r"(_KEY|_TOKEN|_SECRET|_PASSWORD)$")  # of environment variables
PATTERNS = (
    re.compile(r"(?<=://)[^/\s@'\"]*:[^/\s@'\"]*(?=@)"),  # a URL's user name and password
    re.compile(
        r"(?<=[?&;])((?:[\w-]*[_-])?(?:key|token|secret|password|sig|signature)=)[^&\s'\"]+"
    ),
    re.compile(r"(\b[Bb]earer )[\w.~+/=-]{8,}"),
)
# C0 and C1 controls but for tab and line feed, and marks that reorder the text behind them.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_declared: set[str] = set()


def declare_secrets(names: Iterable[str]) -> None:
    """Treat the values of these environment variables as secrets, whatever they are called."""
    _declared.update(names)


def redact(text: str) -> str:
    """The text with `***` in place of each key and password.

    Those are the values of environment variables that a plugin declared by `requires(keys=...)`, or
    whose names end in _KEY, _TOKEN, _SECRET or _PASSWORD, as they are, percent-encoded or in JSON;
    a URL's password; and what follows "Bearer" or stands in a URL as a key.
    """
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    for pattern in PATTERNS:
        text = pattern.sub(lambda match: (match[1] if match.lastindex else "") + HIDDEN, text)
    return text


def holds_secret(text: str) -> bool:
    """Whether the text holds the value of a secret environment variable."""
    return any(secret in text for secret in _secrets())


def excerpt(text: str, limit: int = 200) -> str:
    """The start of a text from outside, for a message: redacted, on one line, then cut.

    Args:
        text: As received.
        limit: The most characters.
    """
    return printable(" ".join(redact(text).split()))[:limit]


def printable(text: str) -> str:
    r"""The text with control characters shown (`\x1b`), so that a terminal does not obey them."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact_error(error: BaseException) -> None:
    """Redact an error's messages and those of its causes, and spell out control characters."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.args = tuple(
            printable(redact(value)) if isinstance(value, str) else value for value in each.args
        )
        pending += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def _secrets() -> list[str]:
    """Every form of every secret, the longest first, since one may contain another."""
    values = {
        value
        for name, value in os.environ.items()
        if (name in _declared or SECRET_NAME.search(name)) and len(value) >= SHORTEST
    }
    forms = {
        form for each in values for form in (each, quote(each, safe=""), json.dumps(each)[1:-1])
    }
    return sorted(forms, key=len, reverse=True)
