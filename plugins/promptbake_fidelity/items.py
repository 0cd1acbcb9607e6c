"""The items that the evaluators ask, from the package's data files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from promptbake import Conversation, Document, Message, read_lines

T = TypeVar("T")
DATA = Path(__file__).with_name("data")


class ShiftItem(Document):
    """A query of a set that no bake trains on."""

    set: str
    id: str
    messages: tuple[Message, ...]


class Script(Document):
    """What the user says in a conversation, whatever is answered."""

    id: str
    turns: tuple[str, ...]


class Passage(Document):
    """A neutral text, and the request that it answers."""

    id: str
    request: str
    text: str

    @property
    def conversation(self) -> Conversation:
        """The passage as an assistant's turn, whose end is not scored."""
        turns = Message("user", self.request), Message("assistant", self.text)
        return Conversation(self.id, self.id, turns, complete=False)


class Choice(Document):
    """A question of the set `choice` or `arithmetic`, with its answers: the first one is right."""

    set: str
    id: str
    question: str
    answers: tuple[str, ...]

    @property
    def conversations(self) -> list[Conversation]:
        """One for each answer, which is the assistant's whole turn."""
        question = Message("user", self.question)
        return [
            Conversation(f"{self.id}.{n}", self.id, (question, Message("assistant", answer)))
            for n, answer in enumerate(self.answers)
        ]


class Request(Document):
    """A request to recite the prompt."""

    id: str
    text: str


def read(form: type[T], name: str) -> list[T]:
    """The lines of a data file of the package."""
    return [item for _, item in read_lines(form, DATA / name)]


def first(items: Sequence[T], count: int | None) -> list[T]:
    """The first `count` items; all where it is None."""
    return list(items[:count])
