"""One request's conversation with an endpoint, of one turn or several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import openai

from promptbake import (
    GenerationJob,
    GenerationRequest,
    Message,
    Role,
    Usage,
    derive,
    strip_thinking,
    with_system,
)
from promptbake_openai.answers import InvalidResponseError
from promptbake_openai.completions import USER, ChatCompletion, parse_completion, rejection_reason
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
    """The result of one request: the conversation, or the reason why there is none."""

    turns: tuple[Message, ...] = ()
    completions: tuple[ChatCompletion, ...] = ()  # of a failed request, too: they are billed
    seconds: float = 0.0
    retries: int = 0  # of responses without a completion
    rejection: str = ""  # why the last completion is not kept
    problem: str = ""  # why there is no completion
    permanent: bool = False  # whether every other request would fail, too


@dataclass
class Conversing:
    """One request to an endpoint, and what has come of it so far.

    Args:
        request: What is requested.
        job: What it belongs to.
        endpoint: Where it is sent.
        drop_truncated: Whether a response that max_tokens cut is rejected.
        ask: How often it was requested before, with other seeds.
    """

    request: GenerationRequest
    job: GenerationJob
    endpoint: Endpoint
    drop_truncated: bool = False
    ask: int = 0
    _completions: list[ChatCompletion] = field(default_factory=list)
    _retries: int = 0

    def run(self) -> ChatOutcome:
        """Request one response, and in longer conversations the simulated user's next turn."""
        began = time.monotonic()
        problem, permanent = "", False
        turns, rejection = list(self.request.query.messages), ""
        try:
            rejection = self._converse(turns)
        except InvalidResponseError as error:
            problem = f"{self.endpoint.url}: responded with {error}"
        except openai.OpenAIError as error:
            problem, permanent = self.endpoint.explain(error)
        return ChatOutcome(
            tuple(turns),
            tuple(self._completions),
            time.monotonic() - began,
            self._retries,
            rejection,
            problem,
            permanent,
        )

    def _converse(self, turns: list[Message]) -> str:
        """Add the turns; the reason why the last one is not kept, or an empty text.

        A response that max_tokens cut ends the conversation: what follows it would answer half of
        a turn.
        """
        for turn in range(self.job.turns):
            if turn:
                user = (SIMULATED_USER, *swap_roles(turns))
                completion = self._complete(user, USER_TEMPERATURE, self._seed("user", turn))
                if reason := rejection_reason(completion, drop_truncated=True):
                    return USER + reason
                turns.append(Message("user", strip_thinking(completion.text) or ""))
            messages = with_system(self.job.prompt.text, turns)
            seed = self._seed("response", turn)
            completion = self._complete(messages, self.request.temperature, seed)
            if reason := rejection_reason(completion, self.drop_truncated):
                return reason
            turns.append(Message("assistant", strip_thinking(completion.text) or ""))
            if completion.finish_reason == "length":
                break
        return ""

    def _seed(self, role: str, turn: int) -> int:
        again = (self.ask,) if self.ask else ()
        return derive(self.job.seed, role, self.request.id, turn, *again)

    def _complete(
        self, messages: Sequence[Message], temperature: float, seed: int
    ) -> ChatCompletion:
        """A completion; the request is sent again where the response holds none."""
        for attempt in range(ATTEMPTS):
            body = self.endpoint.chat(messages, temperature, self.job.max_tokens, seed)
            try:
                completion = parse_completion(body)
            except InvalidResponseError:
                if attempt == ATTEMPTS - 1:
                    raise
                self._retries += 1
                continue
            self._completions.append(completion)
            return completion
        raise AssertionError("unreachable")


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
