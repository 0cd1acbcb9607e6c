"""Talking to an arm: the base model or the baked one, with the prompt or without."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

from promptbake.dataset.sampling import decode_stream
from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.runs.session import Session
from promptbake.types import ARM_LABELS, Arm, Message, StopReason

BAKED_ARMS = ("baked", "reprompted")
PROMPTED_ARMS = ("prompted", "reprompted")


class Chat:
    """A conversation with one arm, which remembers its turns.

    Attributes:
        arm: Which model replies.
        system: The system prompt, None for none; it may be changed between two turns.
        stop_reason: Why the last reply ended: `stop` where the model ended its turn, `length`
            where `max_tokens` cut it; None before the first reply has ended.
    """

    def __init__(
        self,
        session: Session,
        arm: Arm,
        max_tokens: int,
        temperature: float,
        strength: float = 1.0,
    ) -> None:
        if max_tokens < 1 or not 0 <= temperature < math.inf:
            raise BakeError(
                f"expected max_tokens of at least 1 and a temperature of 0 or more; found "
                f"{max_tokens} and {temperature}"
            )
        self._session, self._strength = session, strength
        self._max_tokens, self._temperature = max_tokens, temperature
        self._models: dict[bool, Model] = {}  # by whether it is baked
        self.stop_reason: StopReason | None = None
        self.switch(arm)

    def switch(self, arm: Arm) -> None:
        """Talk to another arm from now on, in a new conversation.

        Raises:
            BakeError: There is no such arm, or it needs a prompt and none is known.
        """
        if arm not in get_args(Arm):
            raise BakeError(f"arm {arm!r}: expected one of {', '.join(get_args(Arm))}")
        text = self._session.prompt.text
        if arm in PROMPTED_ARMS and not text:
            given = self._session.address or self._session.run.path
            raise BakeError(
                f"{given}: comes without a prompt, and the arm {ARM_LABELS[arm]} needs one; give "
                "the prompt's file"
            )
        self._model = self._load(arm in BAKED_ARMS)
        self.arm, self.system = arm, text if arm in PROMPTED_ARMS else None
        self._messages: list[Message] = []

    def _load(self, baked: bool) -> Model:
        """The model, loaded at its first use, with a line that says what is loaded."""
        if baked not in self._models:
            session = self._session
            name = session.config.model.name
            what = f"{session.address or session.run.adapter} on {name}" if baked else name
            session.reporter.say(f"chat: loading {what}")
            self._models[baked] = session.load_adapter(self._strength) if baked else session.base
        return self._models[baked]

    def say(self, text: str) -> Iterator[str]:
        """The reply, in pieces as they are generated; one that is stopped is kept as it is."""
        self._messages.append(Message("user", text))
        self.stop_reason = None
        renderer = self._model.renderer
        chunks = self._model.stream(
            renderer.prompt(self._messages, self.system),
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._session.config.seed + len(self._messages),
        )
        reply = ""
        try:
            for piece, stop_reason in decode_stream(renderer, chunks):
                reply += piece
                self.stop_reason = stop_reason
                yield piece
        finally:
            self._messages.append(Message("assistant", reply))
