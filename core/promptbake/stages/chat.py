"""Talking to an arm: the base model, the prompted one, or the baked one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.session import Session
from promptbake.types import Message

ChatArm = Literal["base", "prompted", "baked"]


class Chat:
    """A conversation with one arm, which remembers its turns."""

    def __init__(self, session: Session, arm: ChatArm, max_tokens: int, temperature: float) -> None:
        if arm == "prompted" and session.address:
            raise BakeError(f"{session.address}: comes without a prompt; --arm prompted needs one")
        self._model: Model = session.baked if arm == "baked" else session.base
        self._system = session.prompt.text if arm == "prompted" else None
        self._max_tokens, self._temperature = max_tokens, temperature
        self._seed = session.config.seed
        self._messages: list[Message] = []

    def say(self, text: str) -> Iterator[str]:
        """The answer, in pieces as they are generated."""
        self._messages.append(Message("user", text))
        renderer = self._model.renderer
        tokens = self._model.stream(
            renderer.prompt(self._messages, self._system),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed + len(self._messages),
        )
        shown, ids = "", []
        for token in tokens:
            ids.append(token)
            text = renderer.text(ids)
            if text.endswith("\ufffd"):  # in the middle of a character
                continue
            yield text[len(shown) :]
            shown = text
        answer = renderer.text(ids)
        yield answer[len(shown) :]
        self._messages.append(Message("assistant", answer))
