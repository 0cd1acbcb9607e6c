"""Talking to an arm: the base model, the prompted one, or the baked one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.runs.session import Session
from promptbake.types import Message

ChatArm = Literal["base", "prompted", "baked"]


class Chat:
    """A conversation with one arm, which remembers its turns."""

    def __init__(self, session: Session, arm: ChatArm, max_tokens: int, temperature: float) -> None:
        if arm not in get_args(ChatArm):
            raise BakeError(f"arm {arm!r}: expected one of {', '.join(get_args(ChatArm))}")
        if max_tokens < 1 or not 0 <= temperature < math.inf:
            raise BakeError(
                f"expected max_tokens of at least 1 and a temperature of 0 or more; found "
                f"{max_tokens} and {temperature}"
            )
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
