"""Chat completions: how a response's body is read, and which ones are not kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

from promptbake_openai.answers import ChatAnswer, InvalidResponseError, parse_answer

THINKING = re.compile(r"<think>.*?</think>\s*", flags=re.DOTALL)


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


def parse_completion(body: str) -> ChatCompletion:
    """The completion in a response's body; the content type is not looked at.

    Raises:
        InvalidResponseError: There is none.
    """
    answer = parse_answer(ChatAnswer, body)
    choice = answer.choices[0]
    text, finish_reason = choice.message.text, choice.finish_reason or ""
    if text is None and finish_reason != "content_filter":
        raise InvalidResponseError("no content")
    return ChatCompletion(
        text=text or "",
        finish_reason=finish_reason,
        id=str(answer.id or ""),
        prompt_tokens=answer.usage.prompt_tokens or 0,
        completion_tokens=answer.usage.completion_tokens or 0,
        dollars=answer.usage.cost,
        provider=answer.provider if isinstance(answer.provider, str) else None,
    )


def strip_thinking(text: str) -> str | None:
    """The text without its think blocks; None where one is not closed."""
    stripped = THINKING.sub("", text)
    if "<think>" in stripped:
        return None
    # A template may open the block in the prompt, so that the response only closes it.
    return stripped.rpartition("</think>")[2].strip()


def rejection_reason(completion: ChatCompletion, allow_truncated: bool) -> str | None:
    """Why a completion is not kept, or None where it is."""
    if completion.finish_reason == "content_filter":
        return "a filter refused it"
    text = strip_thinking(completion.text)
    if text is None:
        return "a think block is not closed"
    if completion.finish_reason == "length" and not allow_truncated:
        return "it was cut by data.max_tokens"
    return None if text else "the response is empty"
