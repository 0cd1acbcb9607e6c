"""The chat template of a Hugging Face tokenizer, as the core's Renderer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jinja2 import TemplateError

from promptbake.dataset.alignment import common_prefix
from promptbake.dataset.example_turns import with_system
from promptbake.errors import BakeError
from promptbake.types import Message, TokenIds

PROBE = "quartz"
TEMPLATE_FILE = "<template>"  # what jinja calls the code of a template that is a string


class ChatRenderer:
    """Renders turns by the tokenizer's own chat template.

    A template without a system role gets the prompt folded into the first user's turn;
    `folds_system` tells. `extra_stop_ids` end a turn beside the template's own end. Rendering one
    conversation may take `template_seconds` of CPU time: it takes milliseconds, or does not end.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        extra_stop_ids: frozenset[int],
        *,
        template_seconds: float = 5.0,
    ) -> None:
        if not tokenizer.chat_template:
            raise BakeError(
                f"model {name}: its tokenizer has no chat template, so choose a chat model"
            )
        self._tokenizer, self._name, self._seconds = tokenizer, name, template_seconds
        self._prefixes: dict[str | None, TokenIds] = {}
        self.folds_system = not self._shows_system()
        self._end = self._end_of_turn(name)
        self.stop_ids = extra_stop_ids | {self._end}

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        """Render turns up to where the assistant starts to speak."""
        self.prefix(system)
        return self._render(_with_system(messages, system, self.folds_system))

    def response(self, text: str, complete: bool) -> TokenIds:
        """The response's tokens, with the end-of-turn token where the turn is complete."""
        tokens = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        return (*tokens, self._end) if complete else tokens

    def text(self, tokens: Sequence[int]) -> str:
        """Response tokens back to text."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def prefix(self, system: str | None) -> TokenIds:
        """The tokens that every rendering with this system prompt begins with."""
        if system not in self._prefixes:
            self._prefixes[system] = common_prefix(
                [
                    self._render(_with_system((Message("user", text),), system, self.folds_system))
                    for text in ("a", "Z")
                ]
            )
        return self._prefixes[system]

    def known_prefix(self, tokens: TokenIds) -> TokenIds:
        """The longest prefix seen so far that these tokens begin with."""
        prefixes = self._prefixes.values()
        fitting = [prefix for prefix in prefixes if tokens[: len(prefix)] == prefix]
        return max(fitting, key=len, default=())

    def _render(self, messages: Sequence[Message]) -> TokenIds:
        return tuple(self._tokenizer.encode(self._text(messages, True), add_special_tokens=False))

    def _text(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        with _bounded(self._seconds, self._name):
            text: str = self._tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.content} for message in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=False,  # templates that know no thinking ignore it
            )
        return text

    def _shows_system(self) -> bool:
        try:
            return PROBE in self._text((Message("system", PROBE), Message("user", "a")), True)
        except TemplateError:
            return False

    def _end_of_turn(self, name: str) -> int:
        turns = (Message("user", "a"), Message("assistant", PROBE))
        after = self._text(turns, False).rpartition(PROBE)[2]
        tokens = self._tokenizer.encode(after, add_special_tokens=False)
        special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.added_tokens_decoder)
        ends = [token for token in tokens if token in special]
        if ends:
            return int(ends[0])
        if self._tokenizer.eos_token_id is None:
            raise BakeError(
                f"model {name}: neither its chat template nor its tokenizer ends a turn"
            )
        return int(self._tokenizer.eos_token_id)


@contextmanager
def _bounded(seconds: float, model: str) -> Iterator[None]:
    """Raise BakeError where a template, which is a program of the model's author, does not end.

    The interpreter's trace function is called at each line of the template's code, in this thread.
    """
    ends = time.thread_time() + seconds

    def at_line(frame: FrameType, event: str, argument: object) -> Any:
        if time.thread_time() > ends:
            raise BakeError(
                f"model {model}: its chat template takes more than {seconds:g} s for one "
                "conversation; choose another model, or mend the template"
            )
        return at_line

    def at_call(frame: FrameType, event: str, argument: object) -> Any:
        return at_line if frame.f_code.co_filename == TEMPLATE_FILE else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        yield
    finally:
        sys.settrace(before)


def _with_system(
    messages: Sequence[Message], system: str | None, fold: bool
) -> tuple[Message, ...]:
    if system is None:
        return tuple(messages)
    turns = with_system(system, messages)
    if not fold or turns[0].role != "system":
        return turns
    head, first, *others = turns
    return (Message("user", f"{head.content}\n\n{first.content}"), *others)
