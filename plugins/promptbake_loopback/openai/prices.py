"""What completions cost, and the frame that they come in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Of one answer."""

    prompt_tokens: int
    completion_tokens: int
    dollars: float


@dataclass(frozen=True)
class Prices:
    """In dollars per token."""

    prompt: float = 1.5e-7
    completion: float = 6e-7

    def bill(self, prompt_tokens: int, completion_tokens: int) -> Usage:
        """What one answer costs."""
        dollars = prompt_tokens * self.prompt + completion_tokens * self.completion
        return Usage(prompt_tokens, completion_tokens, dollars)


PRICES = Prices()


def framed(
    form: str, name: str, model: str, choices: list[dict[str, Any]], usage: Usage
) -> dict[str, Any]:
    """OpenAI's completion: `form` is its object, `name` its id."""
    return {
        "id": name,
        "object": form,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }
