"""What an endpoint answers, as types: what is not of them is no answer."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import Field, JsonValue, field_validator

from promptbake import Amount, BakeError, Count, Document, excerpt, parse_json

START = 80  # characters of a body that a message shows


class InvalidResponseError(Exception):
    """The endpoint's response holds no completion; the request is sent again."""


class Part(Document):
    """A part of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(Document):
    """The assistant's message: its content is a text, or parts that are texts."""

    content: str | list[Part] | None = None

    @property
    def text(self) -> str | None:
        """The content; None where there is none."""
        if not isinstance(self.content, list):
            return self.content
        if strange := [part.type for part in self.content if part.type != "text"]:
            raise InvalidResponseError(f"content of the type {strange[0]!r}: expected text")
        return "".join(part.text or "" for part in self.content)


class ChatChoice(Document):
    """A completion of a conversation."""

    message: ChatMessage = ChatMessage()
    finish_reason: str | None = None


class AnswerUsage(Document):
    """What a request used, and its cost in dollars, where the endpoint says."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cost: Amount | None = None


class ChatAnswer(Document):
    """The answer of /chat/completions."""

    choices: list[ChatChoice] = Field(min_length=1)
    usage: AnswerUsage = AnswerUsage()
    id: str | int | None = None
    provider: JsonValue = None

    @field_validator("usage", mode="before")
    @classmethod
    def _no_usage(cls, usage: Any) -> Any:
        return {} if usage is None else usage


class LogprobEntry(Document):
    """A token that is listed at a position, as vLLM writes it."""

    logprob: Annotated[float, Field(allow_inf_nan=True)] | None = None  # nats
    rank: Annotated[int, Field(ge=1)] | None = None  # 1 is the most likely
    decoded_token: str | None = None


LogprobRow = dict[int, LogprobEntry]  # by token id
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class LogprobChoice(Document):
    """A completion with the log-probabilities of its prompt's tokens."""

    prompt_logprobs: list[dict[TokenId, LogprobEntry] | None] | None = None


class LogprobAnswer(Document):
    """The answer of /completions."""

    choices: list[LogprobChoice] = Field(min_length=1)


Answer = TypeVar("Answer", ChatAnswer, LogprobAnswer)


def parse_answer(form: type[Answer], body: str) -> Answer:
    """An answer's body. Raises InvalidResponseError where it is another."""
    try:
        return parse_json(form, body, f"no completion, but {_start(body)!r}")
    except BakeError as error:
        raise InvalidResponseError(str(error)) from None


def _start(body: str) -> str:
    """How a body begins, on one line; of an error, its reason."""
    try:
        reason = parse_json(_Refusal, body, "").error
    except BakeError:
        reason = body
    return excerpt(reason if isinstance(reason, str) else json.dumps(reason), START)


class _Refusal(Document):
    error: JsonValue
