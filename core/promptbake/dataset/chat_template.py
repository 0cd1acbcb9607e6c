"""The chat template of a Hugging Face tokenizer, as the core's Renderer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from promptbake.dataset.alignment import common_prefix
from promptbake.dataset.example_turns import with_system
from promptbake.errors import BakeError
from promptbake.types import Message, TokenIds

PROBE = "quartz"


class ChatRenderer:
    """Renders turns by the tokenizer's own chat template.

    A template without a system role gets the prompt folded into the first user's turn;
    `folds_system` tells. `extra_stop_ids` end a turn beside the template's own end.
    """

    def __init__(self, tokenizer: Any, name: str, extra_stop_ids: frozenset[int]) -> None:
        if not tokenizer.chat_template:
            raise BakeError(
                f"model {name}: its tokenizer has no chat template, so choose a chat model"
            )
        self._tokenizer = tokenizer
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
