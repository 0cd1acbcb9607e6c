"""tinker-cookbook's renderers as the core's Renderer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinker_cookbook import model_info, renderers
from tinker_cookbook.exceptions import ConfigurationError, RendererError
from tinker_cookbook.renderers import TrainOnWhat

from promptbake import BakeError, ChatRenderer, Message, Renderer, TokenIds, excerpt, with_system

CHAT_TEMPLATE = "chat_template"
PROBE = (Message("user", "Is quartz a mineral?"),)
ANSWER = "Quartz is a mineral."


class CookbookRenderer:
    """A renderer of tinker-cookbook, which trains on its LAST_ASSISTANT_MESSAGE."""

    def __init__(self, renderer: Any, tokenizer: Any, name: str, option: str) -> None:
        self._renderer, self._tokenizer, self.name = renderer, tokenizer, name
        self._option = option
        stops = renderer.get_stop_sequences()
        if not all(isinstance(stop, int) for stop in stops):
            raise BakeError(f"{option} = {name!r}: ends a turn by text; choose one with end tokens")
        self.stop_ids = frozenset(stops)

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        """Render turns up to the start of the assistant's reply."""
        turns = messages if system is None else with_system(system, messages)
        return tuple(self._renderer.build_generation_prompt(_plain(turns)).to_ints())

    def response(self, text: str, complete: bool) -> TokenIds:
        """The tokens of a response that training puts weight on."""
        tokens = self.supervised((*PROBE, Message("assistant", text)))[1]
        if complete:
            return tokens
        while tokens and tokens[-1] in self.stop_ids:
            tokens = tokens[:-1]
        return tokens

    def text(self, tokens: Sequence[int]) -> str:
        """Decode response tokens to text."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def supervised(self, messages: Sequence[Message]) -> tuple[TokenIds, TokenIds]:
        """Render a conversation: all its tokens, and those of its response."""
        ids, weights = self._renderer.build_supervised_example(
            _plain(messages), train_on_what=TrainOnWhat.LAST_ASSISTANT_MESSAGE
        )
        tokens = tuple(ids.to_ints())
        return tokens, tuple(
            token for token, weight in zip(tokens, weights.tolist(), strict=True) if weight
        )

    def check(self, model: str) -> None:
        """Raise BakeError if training and sampling would not see the same tokens."""
        turns = (*PROBE, Message("assistant", ANSWER))
        system = Message("system", "Be brief.")
        bare, response = self.supervised(turns)
        prompted, prompted_response = self.supervised((system, *turns))
        if response != prompted_response:
            raise BakeError(
                f"{self._option} = {self.name!r}: a response has other tokens after a system "
                "prompt than without one, so teacher and student cannot be aligned; choose another"
            )
        if bare != self.prompt(PROBE) + response or prompted != (
            self.prompt(PROBE, system.content) + response
        ):
            raise BakeError(
                f"{self._option} = {self.name!r}: trains on other tokens than it samples after; "
                f"choose another{_recommended(model)}"
            )
        if self.text(response).strip() != ANSWER:
            raise BakeError(
                f"{self._option} = {self.name!r}: the tokens of {ANSWER!r} decode to "
                f"{self.text(response)!r}; choose another{_recommended(model)}"
            )


def make_renderer(name: str, tokenizer: Any, model: str, option: str) -> Renderer:
    """Create and check a renderer. Raises BakeError if it does not fit the model.

    Args:
        name: A renderer of tinker-cookbook, `auto` or `chat_template`.
        option: The config key that it is given under, for messages.
    """
    if name == CHAT_TEMPLATE:
        return ChatRenderer(tokenizer, model, frozenset({int(tokenizer.eos_token_id)}))
    known = recommended(model)
    if name == "auto":
        if not known:
            return ChatRenderer(tokenizer, model, frozenset({int(tokenizer.eos_token_id)}))
        name = next((each for each in known if "disable_thinking" in each), known[0])
    if known and name not in known:
        raise BakeError(f"{option} = {name!r}: does not fit {model}{_recommended(model)}")
    try:
        inner = renderers.get_renderer(name, tokenizer, model_name=model)
        renderer = CookbookRenderer(inner, tokenizer, name, option)
    except (RendererError, AssertionError, ValueError) as error:
        reason = excerpt(str(error)) or "its tokens are not in the tokenizer"
        raise BakeError(f"{option} = {name!r}: {reason}{_recommended(model)}") from None
    renderer.check(model)
    return renderer


def recommended(model: str) -> list[str]:
    """The renderers that tinker-cookbook recommends for a model; none if it is unknown to it."""
    try:
        return list(model_info.get_recommended_renderer_names(model))
    except (KeyError, ValueError, ConfigurationError):
        return []


def _recommended(model: str) -> str:
    known = recommended(model)
    return f"; recommended for {model}: {', '.join(known)}" if known else ""


def _plain(messages: Sequence[Message]) -> list[Any]:
    return [{"role": message.role, "content": message.content} for message in messages]
