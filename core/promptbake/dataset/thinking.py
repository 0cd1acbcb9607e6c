"""Think blocks: what a reasoning model writes before its answer, which is not trained on."""

from __future__ import annotations

import re
from dataclasses import replace

from promptbake.types import Conversation

OPEN, CLOSE = "<think>", "</think>"
BLOCK = re.compile(rf"{OPEN}.*?{CLOSE}\s*", flags=re.DOTALL)
NOT_CLOSED = "a think block is not closed"


def strip_thinking(text: str) -> str | None:
    """The text without its think blocks; None where one is not closed.

    A text without any is returned as it is.
    """
    if OPEN not in text and CLOSE not in text:
        return text
    stripped = BLOCK.sub("", text)
    if OPEN in stripped:
        return None
    # A template may open the block in the prompt, so that the response only closes it.
    return stripped.rpartition(CLOSE)[2].strip()


def without_thinking(conversation: Conversation) -> Conversation | None:
    """The conversation with answers alone; None where a think block is not closed.

    A conversation without any think block is returned as it is.
    """
    turns = []
    for message in conversation.messages:
        text = strip_thinking(message.content) if message.role == "assistant" else message.content
        if text is None:
            return None
        turns.append(replace(message, content=text))
    if tuple(turns) == conversation.messages:
        return conversation
    return replace(conversation, messages=tuple(turns))
