"""Chat completions: how a response's body is read, and which ones are not kept."""

from __future__ import annotations

from dataclasses import dataclass

from promptbake import strip_thinking
from promptbake_openai.answers import ChatAnswer, InvalidResponseError, parse_answer

# Why a completion is not kept.
CUT = "it was cut by data.max_tokens"
EMPTY = "the response is empty"
FILTERED = "a filter refused it"
REASONING = "data.max_tokens cut it before its reasoning ended"
UNCLOSED = "a think block is not closed"
USER = "in the simulated user's turn: "  # before one of these
# How often such a completion is requested, each time with another seed; the others once.
ASKS = {EMPTY: 3, UNCLOSED: 3, REASONING: 2, USER + CUT: 3, USER + EMPTY: 3, USER + UNCLOSED: 3}


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
    # Where reasoning takes all tokens, there is no content to send, and a service bills it.
    if text is None and finish_reason not in ("content_filter", "length"):
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
