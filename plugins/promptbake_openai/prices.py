"""What an endpoint bills, in dollars."""

from __future__ import annotations

from dataclasses import dataclass, replace

from promptbake import Usage


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens.

    Attributes:
        prompt: Of input tokens.
        completion: Of output tokens.
        source: Where they come from, for a cost estimate.
    """

    prompt: float
    completion: float
    source: str

    def apply(self, usage: Usage) -> Usage:
        """The usage with its dollars."""
        millionths = usage.input_tokens * self.prompt + usage.output_tokens * self.completion
        return replace(usage, dollars=millionths / 1e6)
