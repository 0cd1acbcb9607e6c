"""The example turns that a prompt may hold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from promptbake.errors import BakeError
from promptbake.types import Message


def with_system(system: str, turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with a system prompt before them, and with the example turns that it holds.

    A line `[user]` or `[assistant]` of a prompt begins an example turn: what is above the first is
    the system message, and the examples stand between it and the conversation.

    Raises:
        BakeError: The examples are not a user's and an assistant's turn by turn, or one is empty.
    """
    head, *parts = re.split(r"^\[(user|assistant)\]\s*?$", system, flags=re.MULTILINE)
    if not parts:
        return (Message("system", system), *turns)
    roles, texts = parts[::2], [text.strip() for text in parts[1::2]]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not all(texts):
        raise BakeError(
            "the prompt's examples: expected a line [user], its text, a line [assistant], its "
            f"text, and so on; found {', '.join(roles)}"
        )
    examples = [Message(role, text) for role, text in zip(roles, texts, strict=True)]
    first = [Message("system", head.strip())] if head.strip() else []
    return (*first, *examples, *turns)
