"""Faulty renderers of a backend's model. Run by test_faulty_plugins.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faulty_suites import suites_for
from toy_backend import Toy

from promptbake.costs import Budget
from promptbake.dataset.chat_template import ChatRenderer
from promptbake.interfaces import Model
from promptbake.testing import tiny_tokenizer
from promptbake.testing.backends.renderers import RendererTests
from promptbake.types import Message, TokenIds
from promptbake_torch.model import TorchModel


def rendered_by(kind: type[ChatRenderer]) -> type[Toy]:
    """A backend whose models have a renderer of that kind."""

    class Rendered(Toy):
        def open_model(self, name: str, budget: Budget) -> Model:
            model = super().open_model(name, budget)
            assert isinstance(model, TorchModel)
            tokenizer = tiny_tokenizer()
            stops = frozenset({int(tokenizer.eos_token_id)})
            model.engine.renderer = kind(tokenizer, name, stops)
            return model

    Rendered.__name__ = kind.__name__
    return Rendered


class GivesLists(ChatRenderer):
    def prompt(self, messages: Sequence[Message], system: str | None = None) -> Any:
        return list(super().prompt(messages, system))


class HasNoEnd(ChatRenderer):
    def __init__(self, *how: Any) -> None:
        super().__init__(*how)
        self.stop_ids = frozenset()


class ForgetsTheSystemPrompt(ChatRenderer):
    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        return super().prompt(messages)


class FoldsTheSystemPromptOverTheQuestion(ChatRenderer):
    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        if system is not None:
            messages = (Message("user", system), *messages[1:])
        return super().prompt(messages)


class KeepsTheSystemPrompt(ChatRenderer):
    kept: str | None = None

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        self.kept = system or self.kept
        return super().prompt(messages, self.kept)


class ReadsTheLastTurnAlone(ChatRenderer):
    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        return super().prompt(messages[-1:], system)


class ReadsTheUserAlone(ChatRenderer):
    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        return super().prompt([each for each in messages if each.role == "user"], system)


class ReadsBackwards(ChatRenderer):
    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        return super().prompt(messages[::-1], system)


class AsksAboutNothing(ChatRenderer):
    """The content is lost."""

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        return super().prompt([Message(each.role, "") for each in messages], system)


class NeverEndsATurn(ChatRenderer):
    def response(self, text: str, complete: bool) -> TokenIds:
        return super().response(text, complete=False)


class AlwaysEndsATurn(ChatRenderer):
    def response(self, text: str, complete: bool) -> TokenIds:
        return super().response(text, complete=True)


class EndsATurnTwice(ChatRenderer):
    def response(self, text: str, complete: bool) -> TokenIds:
        tokens = super().response(text, complete)
        return tokens + tokens[-1:] if complete else tokens


class EndsATurnByALine(ChatRenderer):
    """As the template goes on behind the stop token."""

    def response(self, text: str, complete: bool) -> TokenIds:
        tokens = super().response(text, complete)
        return tokens + super().response("\n", complete=False) if complete else tokens


class KnowsAsciiAlone(ChatRenderer):
    def response(self, text: str, complete: bool) -> TokenIds:
        return super().response(text.encode("ascii", "replace").decode(), complete)


class ShowsSpecialTokens(ChatRenderer):
    def text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens))  # type: ignore[no-any-return]


class TidiesSpaces(ChatRenderer):
    def text(self, tokens: Sequence[int]) -> str:
        return " ".join(super().text(tokens).split())


class LowersTheCase(ChatRenderer):
    def response(self, text: str, complete: bool) -> TokenIds:
        return super().response(text.lower(), complete)


SPOILT = {
    GivesLists: "test_it_renders_to_tuples_of_tokens",
    HasNoEnd: "test_it_has_tokens_that_end_a_turn",
    AsksAboutNothing: "test_the_question_is_in_the_prompt",
    ForgetsTheSystemPrompt: "test_the_system_prompt_is_in_the_prompt",
    FoldsTheSystemPromptOverTheQuestion: "test_the_system_prompt_is_in_the_prompt",
    KeepsTheSystemPrompt: "test_without_a_system_prompt_it_is_not_there",
    ReadsTheLastTurnAlone: "test_all_turns_are_in_the_prompt_in_their_order",
    ReadsTheUserAlone: "test_all_turns_are_in_the_prompt_in_their_order",
    ReadsBackwards: "test_all_turns_are_in_the_prompt_in_their_order",
    NeverEndsATurn: "test_a_complete_response_ends_in_one_stop_token",
    AlwaysEndsATurn: "test_a_complete_response_ends_in_one_stop_token",
    EndsATurnTwice: "test_a_complete_response_ends_in_one_stop_token",
    EndsATurnByALine: "test_a_complete_response_ends_in_one_stop_token",
    KnowsAsciiAlone: "test_a_response_comes_back_as_its_text",
    ShowsSpecialTokens: "test_a_response_comes_back_as_its_text",
    TidiesSpaces: "test_a_response_comes_back_as_its_text",
    LowersTheCase: "test_a_response_comes_back_as_its_text",
}
RENDERED = {rendered_by(kind): caught_by for kind, caught_by in SPOILT.items()}

globals().update(suites_for(RendererTests, "backend", Toy, RENDERED))
