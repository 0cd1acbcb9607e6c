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
OTHER = "Yes, it is one!"  # begins and ends otherwise
REFUSALS = (RendererError, AssertionError, ValueError)  # how the cookbook refuses a text
PREFERRED = ("disable_thinking", "low_reasoning")  # what `auto` looks for, in this order


class CookbookRenderer:
    """A renderer of tinker-cookbook, which trains on its LAST_ASSISTANT_MESSAGE.

    Where a response's tokens say more than its text (a channel, an empty think block), the
    cookbook's `parse_response` finds the text; what the model thought is left out.

    Attributes:
        stop_ids: Tokens that end the assistant's turn.
        stops: What sampling is to stop at: those tokens, or the texts that end a base model's turn.
        parses: Whether the text is found by `parse_response`.
        thinks: Whether the model may think before it answers.
    """

    def __init__(self, renderer: Any, tokenizer: Any, name: str, option: str) -> None:
        self._renderer, self._tokenizer, self.name = renderer, tokenizer, name
        self._option = option
        self._probe = self.prompt(PROBE)
        self.stops: list[int] | list[str] = list(renderer.get_stop_sequences())
        self._ends_by_text = any(isinstance(stop, str) for stop in self.stops)
        ids = [tokenizer.eos_token_id] if self._ends_by_text else self.stops
        self.stop_ids = frozenset(int(token) for token in ids if token is not None)
        answer, other = self._trained(PROBE, ANSWER), self._trained(PROBE, OTHER)
        self._lead = _decoded(tokenizer, answer).partition(ANSWER)[0]  # before a base model's text
        self._end = _common_end(answer, other)  # the tokens that end a turn
        self.parses = _decoded(tokenizer, answer).strip() != ANSWER
        self.thinks = self.parses and not self._ends_by_text

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        """Render turns up to the start of the assistant's reply. Raises BakeError."""
        turns = messages if system is None else with_system(system, messages)
        try:
            return tuple(self._renderer.build_generation_prompt(_plain(turns)).to_ints())
        except REFUSALS as error:
            raise self._refusal(error) from None

    def response(self, text: str, complete: bool) -> TokenIds:
        """The tokens of a response that training puts weight on.

        Raises:
            BakeError: The renderer refuses the text, or renders another prompt before it.
        """
        if self._ends_by_text and not complete:
            return tuple(self._tokenizer.encode(self._lead + text, add_special_tokens=False))
        whole, tokens = self.supervised((*PROBE, Message("assistant", text)))
        if whole != self._probe + tokens:
            raise self._refusal("it changes the turn that it is in")
        cut = tokens[: len(tokens) - len(self._end)]
        if self.stop_ids & set(cut):
            raise self._refusal("it has a token that ends a turn")
        return tokens if complete else cut

    def text(self, tokens: Sequence[int]) -> str:
        """Response tokens to text: what the model says, without what it thinks before."""
        if not self.parses:
            return _decoded(self._tokenizer, tokens)
        tokens = list(tokens)
        if not self._ends_by_text:
            while tokens and tokens[-1] in self._end:
                tokens.pop()
            tokens += self._end
        message, _ = self._renderer.parse_response(tokens)
        return str(renderers.get_text_content(message))

    def supervised(self, messages: Sequence[Message]) -> tuple[TokenIds, TokenIds]:
        """Render a conversation: all its tokens, and those of its response. Raises BakeError."""
        try:
            ids, weights = self._renderer.build_supervised_example(
                _plain(messages), train_on_what=TrainOnWhat.LAST_ASSISTANT_MESSAGE
            )
        except REFUSALS as error:
            raise self._refusal(error) from None
        tokens = tuple(ids.to_ints())
        return tokens, tuple(
            token for token, weight in zip(tokens, weights.tolist(), strict=True) if weight
        )

    def check(self) -> None:
        """Raise BakeError if training and sampling would not see the same tokens."""
        turns = (*PROBE, Message("assistant", ANSWER))
        system = Message("system", "Be brief.")
        bare, response = self.supervised(turns)
        prompted, prompted_response = self.supervised((system, *turns))
        where = f"{self._option} = {self.name!r}"
        if response != prompted_response:
            raise BakeError(
                f"{where}: a response has other tokens after a system prompt than without one, so "
                "teacher and student cannot be aligned"
            )
        if bare != self.prompt(PROBE) + response or prompted != (
            self.prompt(PROBE, system.content) + response
        ):
            raise BakeError(f"{where}: trains on other tokens than it samples after")
        if self.text(response).strip() != ANSWER:
            raise BakeError(
                f"{where}: the tokens of {ANSWER!r} are read as {self.text(response)!r}"
            )

    def _trained(self, turns: Sequence[Message], answer: str) -> TokenIds:
        return self.supervised((*turns, Message("assistant", answer)))[1]

    def _refusal(self, reason: object) -> BakeError:
        text = excerpt(str(reason)) or "its tokens are not in the tokenizer"
        return BakeError(f"the renderer {self.name} cannot render it: {text}")


def make_renderer(name: str, tokenizer: Any, model: str, option: str) -> Renderer:
    """Create and check a renderer. Raises BakeError if it does not fit the model.

    Args:
        name: A renderer of tinker-cookbook, `auto` or `chat_template`.
        option: The config key that it is given under, for messages.
    """
    known = recommended(model)
    if name == CHAT_TEMPLATE or (name == "auto" and not known):
        return ChatRenderer(tokenizer, model, frozenset({int(tokenizer.eos_token_id)}))
    if name == "auto":
        name = _preferred(known)
    if known and name not in known:
        fitting = ", ".join(known)
        raise BakeError(
            f"{option} = {name!r}: does not fit {model}; recommended for {model}: {fitting}"
        )
    try:
        return _checked(name, tokenizer, model, option)
    except BakeError as error:
        others = [each for each in known if each != name and _fits(each, tokenizer, model)]
        remedy = f"; choose one of: {', '.join(others)}" if others else ""
        raise BakeError(f"{error}{remedy}") from None


def recommended(model: str) -> list[str]:
    """The renderers that tinker-cookbook recommends for a model; none if it is unknown to it."""
    try:
        return list(model_info.get_recommended_renderer_names(model))
    except (KeyError, ValueError, ConfigurationError):
        return []


def _preferred(known: Sequence[str]) -> str:
    """The one that thinks least; the cookbook's first where none says that it thinks less."""
    for mode in PREFERRED:
        for name in known:
            if mode in name:
                return name
    return known[0]


def _checked(name: str, tokenizer: Any, model: str, option: str) -> CookbookRenderer:
    try:
        inner = renderers.get_renderer(name, tokenizer, model_name=model)
        renderer = CookbookRenderer(inner, tokenizer, name, option)
    except (*REFUSALS, TypeError, BakeError) as error:
        reason = excerpt(str(error)) or "its tokens are not in the tokenizer"
        raise BakeError(f"{option} = {name!r}: {reason}") from None
    renderer.check()
    return renderer


def _fits(name: str, tokenizer: Any, model: str) -> bool:
    try:
        _checked(name, tokenizer, model, "")
    except BakeError:
        return False
    return True


def _common_end(one: TokenIds, other: TokenIds) -> TokenIds:
    """The tokens that both end with."""
    n = 0
    while n < min(len(one), len(other)) and one[-n - 1] == other[-n - 1]:
        n += 1
    return one[len(one) - n :]


def _decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
    return text


def _plain(messages: Sequence[Message]) -> list[Any]:
    return [{"role": message.role, "content": message.content} for message in messages]
