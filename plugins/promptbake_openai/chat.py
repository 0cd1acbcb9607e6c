"""One request's conversation with an endpoint, of one turn or several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import openai

from promptbake import GenerationJob, GenerationRequest, Message, Role, Usage, derive, with_system
from promptbake_openai.completions import (
    ChatCompletion,
    InvalidResponseError,
    parse_completion,
    strip_thinking,
)
from promptbake_openai.endpoint import Endpoint

ATTEMPTS = 5  # at a response without a completion; the client itself repeats what is lost
USER_TEMPERATURE = 1.0
SIMULATED_USER = Message(
    "system",
    "You play the user of a chat assistant. The assistant's messages come to you as the other "
    "side's. Write the user's next message and nothing else: a follow-up question, a doubt or a "
    "new request, short and natural.",
)


@dataclass(frozen=True)
class ChatOutcome:
    """The result of one request: the whole conversation, or the reason why there is none."""

    turns: tuple[Message, ...] = ()
    completions: tuple[ChatCompletion, ...] = ()  # of a failed request, too: they are billed
    seconds: float = 0.0
    retries: int = 0  # of responses without a completion
    problem: str = ""
    permanent: bool = False  # whether every other request would fail, too

    @property
    def responses(self) -> tuple[ChatCompletion, ...]:
        """The assistant's completions; between them are the simulated user's."""
        return self.completions[::2]


def converse(request: GenerationRequest, job: GenerationJob, endpoint: Endpoint) -> ChatOutcome:
    """Request one response, and in longer conversations the simulated user's next turn."""
    began = time.monotonic()
    turns, completions, retries = list(request.query.messages), list[ChatCompletion](), 0

    def complete(messages: Sequence[Message], temperature: float, seed: int) -> str:
        nonlocal retries
        for attempt in range(ATTEMPTS):
            body = endpoint.chat(messages, temperature, job.max_tokens, seed)
            try:
                completions.append(parse_completion(body))
                return strip_thinking(completions[-1].text) or ""
            except InvalidResponseError:
                if attempt == ATTEMPTS - 1:
                    raise
                retries += 1
        raise AssertionError("unreachable")

    try:
        for turn in range(job.turns):
            if turn:
                seed = derive(job.seed, "user", request.id, turn)
                text = complete((SIMULATED_USER, *swap_roles(turns)), USER_TEMPERATURE, seed)
                turns.append(Message("user", text or "Go on."))
            seed = derive(job.seed, "response", request.id, turn)
            text = complete(with_system(job.prompt.text, turns), request.temperature, seed)
            turns.append(Message("assistant", text))
    except InvalidResponseError as error:
        problem, permanent = f"{endpoint.url}: responded with {error}", False
    except openai.OpenAIError as error:
        problem, permanent = endpoint.explain(error)
    else:
        seconds = time.monotonic() - began
        return ChatOutcome(tuple(turns), tuple(completions), seconds, retries)
    return ChatOutcome(
        completions=tuple(completions), retries=retries, problem=problem, permanent=permanent
    )


def swap_roles(turns: Sequence[Message]) -> list[Message]:
    """The conversation as the other side sees it."""
    other: dict[Role, Role] = {"user": "assistant", "assistant": "user", "system": "system"}
    return [Message(other[turn.role], turn.content) for turn in turns]


def max_usage(request: GenerationRequest, job: GenerationJob) -> Usage:
    """The most that a request may use: each response of max_tokens, read again in later turns."""
    text = [job.prompt.text, *(message.content for message in request.query.messages)]
    # No tokenizer makes more tokens of a text than it has bytes; a turn's frame takes a few.
    prompt_tokens = sum(len(part.encode()) + 8 for part in text)
    calls = 2 * job.turns - 1  # the responses, and the simulated user's turns between them
    earlier_turns = job.max_tokens * calls * (calls - 1) // 2
    return Usage(
        calls,
        input_tokens=prompt_tokens * calls + earlier_turns,
        output_tokens=job.max_tokens * calls,
    )
