"""Conversation to Datum: the only place where tokens are aligned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from promptbake.errors import BakeError
from promptbake.interfaces import Model, Renderer
from promptbake.types import BakeTarget, Conversation, Datum, Message, Prompt, TokenIds


def align(
    conversation: Conversation, target: BakeTarget, model: Model, check_context: bool = True
) -> Datum:
    """Render a conversation for the student and the teacher; both end with the same response.

    The response is tokenised by itself, as it is generated: after the rendered turns, not as a
    part of them.

    Raises:
        BakeError: The conversation cannot be rendered, or is longer than the model's context.
    """
    if problem := rendering_problem(conversation, model.renderer):
        raise BakeError(f"conversation {conversation.id}: {problem}")
    query, response = conversation.messages[:-1], conversation.messages[-1]
    tokens = model.renderer.response(response.content, conversation.complete)
    student = model.renderer.prompt(query, target.student.system) + tokens
    teacher = model.renderer.prompt(query, target.teacher.system) + tokens
    for ids, who in ((student, "without"), (teacher, "with")):
        if check_context and len(ids) > model.context_tokens:
            raise BakeError(
                f"conversation {conversation.id}: {len(ids)} tokens {who} the prompt, and the "
                f"context of {model.name} holds {model.context_tokens}"
            )
    temperature = conversation.meta.get("temperature")
    return Datum(
        conversation.id,
        conversation.query_id,
        student,
        teacher,
        len(tokens),
        1.0 if temperature is None else float(temperature),
        conversation.target,
    )


def rendering_problem(conversation: Conversation, renderer: Renderer) -> str | None:
    """Why a conversation cannot be rendered to train on it, or None where it can."""
    try:
        tokens = renderer.response(conversation.response, conversation.complete)
        renderer.prompt(conversation.messages[:-1])
    except BakeError as error:
        return str(error)
    return None if tokens else "the response has no tokens"


def align_all(
    conversations: Iterable[Conversation],
    targets: Sequence[BakeTarget],
    model: Model,
    check_context: bool = True,
) -> tuple[Datum, ...]:
    """Every conversation's datum, in the order of their ids.

    Raises:
        BakeError: A conversation belongs to no target, or is longer than the model's context.
    """
    by_name = {target.name: target for target in targets}
    ordered = sorted(conversations, key=lambda conversation: conversation.id)
    for conversation in ordered:
        if conversation.target not in by_name:
            raise BakeError(
                f"conversation {conversation.id}: unknown target {conversation.target!r}; "
                f"available: {', '.join(map(repr, by_name))}"
            )
    return tuple(
        align(conversation, by_name[conversation.target], model, check_context)
        for conversation in ordered
    )


def common_prefix(rows: Sequence[TokenIds]) -> TokenIds:
    """The tokens that all rows begin with."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return tuple(column[0] for column in columns)


def check_room(prompt: Prompt, model: Model, max_tokens: int) -> None:
    """Raise BakeError where the prompt leaves no room for a response in the model's context."""
    needed = len(model.renderer.prompt((Message("user", "?"),), prompt.system)) + max_tokens
    if needed > model.context_tokens:
        raise BakeError(
            f"prompt {prompt.name}: with a response of {max_tokens} tokens it takes {needed} "
            f"tokens, and the context of {model.name} holds {model.context_tokens}; shorten the "
            "prompt, lower data.max_tokens, or choose another model"
        )
