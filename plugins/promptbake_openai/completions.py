"""Chat completions: how a response's body is read, and which ones are not kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from promptbake import excerpt, strip_thinking

# Why a completion is not kept.
CUT = "it was cut by data.max_tokens"
EMPTY = "the response is empty"
FILTERED = "a filter refused it"
REASONING = "data.max_tokens cut it before its reasoning ended"
UNCLOSED = "a think block is not closed"
USER = "in the simulated user's turn: "  # before one of these
# How often such a completion is requested, each time with another seed; the others once.
ASKS = {EMPTY: 3, UNCLOSED: 3, REASONING: 2, USER + CUT: 3, USER + EMPTY: 3, USER + UNCLOSED: 3}


class InvalidResponseError(Exception):
    """The endpoint's response holds no completion; the request is sent again."""


@dataclass(frozen=True)
class ChatCompletion:
    """A completion: its text as received, and its usage."""

    text: str
    finish_reason: str
    id: str
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None  # None where the endpoint reports no cost
    provider: str | None


def parse_choice(body: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A response's JSON object, and its first choice; the content type is not looked at.

    Raises:
        InvalidResponseError: There is none.
    """
    try:
        response: Any = json.loads(body)
    except ValueError:
        raise InvalidResponseError(f"no JSON, but {_start(body)!r}") from None
    if not isinstance(response, dict):
        raise InvalidResponseError(f"no completion, but {_start(body)!r}")
    choices = [choice for choice in response.get("choices") or [] if isinstance(choice, dict)]
    if not choices:
        reason = json.dumps(response.get("error") or response)
        raise InvalidResponseError(f"no choices: {_start(reason)}")
    return response, choices[0]


def parse_completion(body: str) -> ChatCompletion:
    """The completion in a response's body. Raises InvalidResponseError where there is none."""
    response, choice = parse_choice(body)
    message = choice.get("message") or {}
    finish_reason = choice.get("finish_reason") or ""
    # Where reasoning takes all tokens, there is no content to send, and a service bills it.
    if message.get("content") is None and finish_reason not in ("content_filter", "length"):
        raise InvalidResponseError("no content")
    usage = response.get("usage") or {}
    return ChatCompletion(
        text=message.get("content") or "",
        finish_reason=finish_reason,
        id=response.get("id") or "",
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        dollars=usage.get("cost"),
        provider=response.get("provider"),
    )


def rejection_reason(completion: ChatCompletion, drop_truncated: bool) -> str | None:
    """Why a completion is not kept, or None where it is."""
    if completion.finish_reason == "content_filter":
        return FILTERED
    text = strip_thinking(completion.text)
    is_cut = completion.finish_reason == "length"
    if not text and is_cut:
        return REASONING
    if text is None:
        return UNCLOSED
    if is_cut and drop_truncated:
        return CUT
    return None if text.strip() else EMPTY


def _start(text: str) -> str:
    return excerpt(text, 80)
