"""The errors that a user can fix, and the hint at a name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BakeError(Exception):
    """An error that the user can fix: what was found, what was expected, what to type.

    The command line prints the message without a traceback and exits with 2. Everything else is a
    defect of ours or of a plugin, and crashes loudly.
    """


class BudgetError(BakeError):
    """`budget.max_dollars` would be passed: work stops before, and resumes with a higher cap."""


class ContractError(ValueError):
    """What a plugin's object gave is not what its interface says: a defect of the plugin."""

    def __init__(self, product: object, problem: str) -> None:
        kind = product.__class__  # which sees through the wrapper that a plugin's object is behind
        super().__init__(f"{kind.__module__}.{kind.__qualname__}: {problem}")
        self.product = product


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint at the choice that was probably meant, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
