"""What the suites try a plugin on: a prompt, questions, and the tiny model that answers them."""

from __future__ import annotations

from functools import cache

from promptbake.costs import Budget, NoBudget
from promptbake.interfaces import Model
from promptbake.plugins.registry import load
from promptbake.runs.layers import resolve
from promptbake.types import Datum, Message, Prompt, Query

PROMPT = Prompt("pirate", "Answer like a pirate who has lost his map, his ship and his parrot.")
TALKS = {  # questions, and answers of different lengths
    "What is a tide?": "Arr, the moon does it!",
    "Who are you?": "A poor man, matey.",
    "How far is it to the sea?": "Ten leagues or so.",
    "Say hm.": "Hm!",
}
PROFILE = "mock"  # of which the tiny model is the base model


def base_model(budget: Budget | None = None) -> Model:
    """The tiny model, opened by the backend of the profile `mock`."""
    config = resolve(PROFILE).config
    backend = load().choose(config.backend).create({})
    model: Model = backend.open_model(config.model.name, budget or NoBudget())
    return model


@cache
def shared_model() -> Model:
    """The tiny model, opened once for all tests of a process."""
    return base_model()


def queries() -> tuple[Query, ...]:
    """The questions."""
    return tuple(
        Query(f"q{number}", (Message("user", question),)) for number, question in enumerate(TALKS)
    )


def datums(model: Model) -> tuple[Datum, ...]:
    """The questions with their answers, as the student and as the teacher read them."""

    def datum(query: Query, text: str) -> Datum:
        response = model.renderer.response(text, complete=True)
        student, teacher = (
            model.renderer.prompt(query.messages, prompt) + response
            for prompt in (None, PROMPT.text)
        )
        return Datum(f"c-{query.id}", query.id, student, teacher, len(response))

    return tuple(map(datum, queries(), TALKS.values()))
