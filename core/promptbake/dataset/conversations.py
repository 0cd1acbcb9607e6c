"""Conversations as JSONL lines: the format that every chat fine-tuning tool reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from promptbake.documents.text import shown
from promptbake.documents.typed import Document, adapter, parse, read_lines
from promptbake.errors import BakeError
from promptbake.files import SEAL, unseal
from promptbake.types import Conversation, Message, Role


def to_line(conversation: Conversation) -> dict[str, Any]:
    """The conversation as one JSON object."""
    return {
        "id": conversation.id,
        "query_id": conversation.query_id,
        "messages": messages_to_json(conversation.messages),
        "complete": conversation.complete,
        "meta": dict(conversation.meta),
    } | ({"target": conversation.target} if conversation.target else {})


def read(path: Path) -> tuple[Conversation, ...]:
    """The conversations of a file whose lines `to_line` wrote, perhaps edited by hand.

    Raises BakeError naming the file and the line for what is none, or is not what was written.
    """
    conversations = []
    for number, content in read_objects(path):
        where = f"{path}:{number}"
        if not unseal(content):
            raise BakeError(
                f"{where}: is damaged, or was edited: its {SEAL!r} does not match; run "
                f"`promptbake data` to generate it again, or delete its {SEAL!r} to keep it"
            )
        line = parse(_Line, content, where)
        messages = check_messages({"messages": line.messages}, where)
        meta = line.meta.model_dump(exclude_unset=True)
        conversations.append(
            Conversation(line.id, line.query_id, messages, line.complete, meta, line.target)
        )
    return tuple(conversations)


def messages_to_json(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    """Messages as every chat API takes them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The (line number, object) pairs of a user's JSONL file; blank lines are none.

    Raises BakeError naming the file and the line for what is no JSON object.
    """
    return read_lines(dict[str, Any], path)


def check_messages(line: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """The turns of a user's line: user and assistant in turn, nothing empty, no system message.

    They may end with either. A content is text, or a list of parts that are text. Raises BakeError
    beginning with `where`.
    """
    messages = line.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BakeError(f'{where}: expected "messages": [...] with at least one turn')
    turns = tuple(_turn(message, where) for message in messages)
    roles = [turn.role for turn in turns]
    if roles != [("user", "assistant")[turn % 2] for turn in range(len(roles))]:
        raise BakeError(
            f"{where}: turns must go user, assistant, user, ...; found "
            + shown(", ".join(roles), 120)
        )
    return turns


def _turn(message: object, where: str) -> Message:
    try:
        turn = adapter(_Turn).validate_python(message)
    except ValidationError:
        found = shown(json.dumps(message, ensure_ascii=False))
        raise BakeError(
            f'{where}: expected turns {{"role": "user" or "assistant", "content": text}}, '
            f"found {found}"
        ) from None
    if turn.role == "system":
        raise BakeError(
            f"{where}: holds a system message; conversations are kept without the prompt, "
            "so delete that turn"
        )
    content = turn.content
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    name = "response" if turn.role == "assistant" else "user's turn"
    if not text.strip():
        raise BakeError(f"{where}: the {name} is empty")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise BakeError(f"{where}: the {name} holds half a character (a lone surrogate)")
    return Message(turn.role, text)


class _Part(Document):
    type: Literal["text"]
    text: str


class _Turn(Document):
    role: Role
    content: str | list[_Part]


class _Meta(Document):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool | None]
    temperature: float | None = Field(None, ge=0)


class _Line(Document):
    id: str
    query_id: str
    messages: list[Any]
    complete: bool
    meta: _Meta
    target: str = ""
