"""Faulty renderers of a backend's model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from faulty_suites import suites_for
from toy_backend import END, Renderer, Toy, ToySuite, after, backend_with, faults

from promptbake.types import Message


def reading(change: Callable[..., tuple[Any, ...]]) -> dict[str, Any]:
    """Renders other messages, or another system prompt."""

    def prompt(self: Any, messages: Any, system: str | None = None) -> Any:
        return Renderer.prompt(self, *change(list(messages), system))

    return {"prompt": prompt}


def responding(change: Callable[..., Any]) -> dict[str, Any]:
    """Renders a response otherwise: `change` has the good way, the text, whether it is complete."""

    def response(self: Any, text: str, complete: bool) -> Any:
        return change(lambda *given: Renderer.response(self, *given), text, complete)

    return {"response": response}


def keep_the_system_prompt(self: Any, messages: Any, system: str | None = None) -> Any:
    self.kept = system or getattr(self, "kept", None)
    return Renderer.prompt(self, messages, self.kept)


FAULTS = [
    *faults(
        "test_it_renders_to_tuples_of_tokens",
        gives_lists={"prompt": after(Renderer.prompt, lambda self, tokens: list(tokens))},
    ),
    *faults("test_it_has_tokens_that_end_a_turn", has_no_end={"stop_ids": frozenset()}),
    *faults(
        "test_the_question_is_in_the_prompt",
        loses_the_content=reading(lambda turns, _: ([Message(each.role, "") for each in turns],)),
    ),
    *faults(
        "test_the_system_prompt_is_in_the_prompt",
        forgets_the_system_prompt=reading(lambda turns, system: (turns,)),
        puts_the_system_prompt_in_the_questions_place=reading(
            lambda turns, system: ([Message("user", system or turns[0].content), *turns[1:]],)
        ),
    ),
    *faults(
        "test_without_a_system_prompt_it_is_not_there",
        keeps_the_system_prompt={"prompt": keep_the_system_prompt},
    ),
    *faults(
        "test_all_turns_are_in_the_prompt_in_their_order",
        reads_the_last_turn_alone=reading(lambda turns, system: (turns[-1:], system)),
        reads_the_user_alone=reading(lambda turns, system: (turns[::2], system)),
        reads_backwards=reading(lambda turns, system: (turns[::-1], system)),
    ),
    *faults(
        "test_a_complete_response_ends_in_one_stop_token",
        never_ends_a_turn=responding(lambda good, text, complete: good(text, False)),
        always_ends_a_turn=responding(lambda good, text, complete: good(text, True)),
        ends_a_turn_twice=responding(
            lambda good, text, complete: good(text, complete) + (END,) * complete
        ),
        ends_a_turn_by_a_line=responding(  # as a template goes on behind the stop token
            lambda good, text, complete: good(text, complete) + good("\n", False) * complete
        ),
    ),
    *faults(
        "test_a_response_comes_back_as_its_text",
        knows_ascii_alone=responding(
            lambda good, text, complete: good(text.encode("ascii", "replace").decode(), complete)
        ),
        lowers_the_case=responding(lambda good, text, complete: good(text.lower(), complete)),
        shows_special_tokens={
            "text": lambda self, tokens: Renderer.text(self, tokens) + "<end>" * (END in tokens)
        },
        tidies_spaces={"text": after(Renderer.text, lambda self, text: " ".join(text.split()))},
    ),
]


FAULTS = [replace(fault, base=Renderer) for fault in FAULTS]

globals().update(suites_for(ToySuite, "backend", Toy, FAULTS, backend_with))
