"""Conversations as JSONL lines: the format that every chat fine-tuning tool reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from promptbake.errors import BakeError
from promptbake.files import SEAL, read_text, unseal
from promptbake.redaction import excerpt
from promptbake.types import Conversation, Message

ROLES = ("system", "user", "assistant")


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
    for number, line in read_objects(path):
        if not unseal(line):
            raise BakeError(
                f"{path}:{number}: is damaged, or was edited: its {SEAL!r} does not match; run "
                f"`promptbake data` to generate it again, or delete its {SEAL!r} to keep it"
            )
        messages = check_messages(line, f"{path}:{number}")
        try:
            conversation = Conversation(
                line["id"],
                line["query_id"],
                messages,
                line["complete"],
                line["meta"],
                line.get("target", ""),
            )
        except KeyError as error:
            raise BakeError(f"{path}:{number}: has no {error}") from None
        conversations.append(conversation)
    return tuple(conversations)


def messages_to_json(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    """Messages as every chat API takes them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The (line number, object) pairs of a user's JSONL file; blank lines are none.

    Raises BakeError naming the file and the line for what is no JSON object.
    """
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise BakeError(f"{path}:{number}: is not JSON: {error}") from None
        if not isinstance(line, dict):
            raise BakeError(f"{path}:{number}: expected a JSON object, found {excerpt(text, 40)!r}")
        yield number, line


def check_messages(line: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """The turns of a user's line: user and assistant in turn, nothing empty, no system message.

    They may end with either. Raises BakeError beginning with `where`.
    """
    messages = line.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BakeError(f'{where}: expected "messages": [...] with at least one turn')
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES or not isinstance(message.get("content"), str):
            raise BakeError(
                f'{where}: expected turns {{"role": "user" or "assistant", "content": text}}, '
                f"found {excerpt(json.dumps(message, ensure_ascii=False), 80)}"
            )
        if role == "system":
            raise BakeError(
                f"{where}: holds a system message; conversations are kept without the prompt, "
                "so delete that turn"
            )
        name = "response" if role == "assistant" else "user's turn"
        if not message["content"].strip():
            raise BakeError(f"{where}: the {name} is empty")
        if any("\ud800" <= char <= "\udfff" for char in message["content"]):
            raise BakeError(f"{where}: the {name} holds half a character (a lone surrogate)")
    roles = [message["role"] for message in messages]
    if roles != [("user", "assistant")[turn % 2] for turn in range(len(roles))]:
        raise BakeError(
            f"{where}: turns must go user, assistant, user, ...; found {', '.join(roles)}"
        )
    return tuple(Message(message["role"], message["content"]) for message in messages)
