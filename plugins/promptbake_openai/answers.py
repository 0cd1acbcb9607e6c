"""What is kept of an endpoint's answer, and why another is not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

THINKING = re.compile(r"<think>.*?</think>\s*", flags=re.DOTALL)


class UnusableError(Exception):
    """The endpoint answered, but not with a completion: the request is made again."""


@dataclass(frozen=True)
class Answer:
    """A completion: its text as it came, and what it took."""

    text: str
    finish_reason: str
    id: str
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None  # where the endpoint says it
    provider: str | None


def read(body: str) -> Answer:
    """The answer in a response's body. Raises UnusableError for what is none.

    Its content type is not looked at: a completion under a wrong one is one all the same.
    """
    try:
        plain: Any = json.loads(body)
    except ValueError:
        raise UnusableError(f"no JSON, but {_start(body)!r}") from None
    if not isinstance(plain, dict):
        raise UnusableError(f"no completion, but {_start(body)!r}")
    choices = [each for each in plain.get("choices") or [] if isinstance(each, dict)]
    if not choices:
        raise UnusableError(f"no choices: {_start(json.dumps(plain.get('error') or plain))}")
    message = choices[0].get("message") or {}
    finish_reason = choices[0].get("finish_reason") or ""
    if message.get("content") is None and finish_reason != "content_filter":
        raise UnusableError("no content")
    usage = plain.get("usage") or {}
    return Answer(
        text=message.get("content") or "",
        finish_reason=finish_reason,
        id=plain.get("id") or "",
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        dollars=usage.get("cost"),
        provider=plain.get("provider"),
    )


def without_thinking(text: str) -> str | None:
    """The text without its think blocks; None where one is not closed."""
    stripped = THINKING.sub("", text)
    if "<think>" in stripped:
        return None
    # A template may open the block in the prompt, so that the answer only closes it.
    return stripped.rpartition("</think>")[2].strip()


def rejects(answer: Answer, allow_truncated: bool) -> str | None:
    """Why an answer is not kept, or None where it is."""
    if answer.finish_reason == "content_filter":
        return "a filter refused it"
    if without_thinking(answer.text) is None:
        return "a think block is not closed"
    if answer.finish_reason == "length" and not allow_truncated:
        return "it was cut by data.max_tokens"
    if not without_thinking(answer.text):
        return "the response is empty"
    return None


def _start(text: str) -> str:
    return " ".join(text.split())[:80]
