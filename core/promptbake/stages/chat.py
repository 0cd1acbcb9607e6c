"""Talking to an arm: the base model, the prompted one, or the baked one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

from promptbake.dataset.sampling import decode_stream
from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.runs.session import Session
from promptbake.types import ChatArm, Message, StopReason


class Chat:
    """A conversation with one arm, which remembers its turns.

    Attributes:
        stop_reason: Why the last reply ended: `stop` where the model ended its turn, `length`
            where `max_tokens` cut it; None before the first reply has ended.
    """

    def __init__(
        self,
        session: Session,
        arm: ChatArm,
        max_tokens: int,
        temperature: float,
        strength: float = 1.0,
    ) -> None:
        if arm not in get_args(ChatArm):
            raise BakeError(f"arm {arm!r}: expected one of {', '.join(get_args(ChatArm))}")
        if max_tokens < 1 or not 0 <= temperature < math.inf:
            raise BakeError(
                f"expected max_tokens of at least 1 and a temperature of 0 or more; found "
                f"{max_tokens} and {temperature}"
            )
        if arm == "prompted" and session.address:
            raise BakeError(f"{session.address}: comes without a prompt; --arm prompted needs one")
        baked = arm == "baked"
        self._model: Model = session.load_adapter(strength) if baked else session.base
        self._system = session.prompt.text if arm == "prompted" else None
        self._max_tokens, self._temperature = max_tokens, temperature
        self._seed = session.config.seed
        self._messages: list[Message] = []
        self.stop_reason: StopReason | None = None

    def say(self, text: str) -> Iterator[str]:
        """The reply, in pieces as they are generated."""
        self._messages.append(Message("user", text))
        self.stop_reason = None
        renderer = self._model.renderer
        chunks = self._model.stream(
            renderer.prompt(self._messages, self._system),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed + len(self._messages),
        )
        reply = ""
        for piece, stop_reason in decode_stream(renderer, chunks):
            reply += piece
            self.stop_reason = stop_reason
            yield piece
        self._messages.append(Message("assistant", reply))
