"""Where conversations and the teacher's log-probabilities come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from promptbake.costs import Budget, CostEstimate
from promptbake.interfaces.model import Model, no_progress
from promptbake.types import (
    Completion,
    Conversation,
    GenerationRequest,
    Prompt,
    Query,
    Rejection,
    Span,
    TeacherLogprobs,
    TokenIds,
)


def no_note(note: str) -> None:
    """Ignore the note."""


@dataclass(frozen=True)
class ResponseScores:
    """What the teacher, who is the model that is sampled, is to score while it is sampled.

    Attributes:
        k: K, the most likely tokens at each position.
        draws: M, from the tail.
        seed: The draws' seed, by the rendered prompt.
        take: Takes the scores, and the response's tokens, of the request with this id.
    """

    k: int
    draws: int
    seed: Callable[[TokenIds], int]
    take: Callable[[str, Completion, TeacherLogprobs], None]


@dataclass(frozen=True)
class GenerationJob:
    """The responses that a data provider is to generate, all under one prompt.

    Attributes:
        prompt: The model's system prompt; `prompt.system` is None for none.
        requests: All responses that are wanted, in the same order each time, so that a provider
            that works in batches forms the same batches after a kill.
        completed_ids: Requests whose responses are stored already: not to be yielded again.
        max_tokens: The most tokens of a response.
        seed: The run's.
        open_model: Opens the configured base model, for providers that use it.
        budget: What is paid for elsewhere is reserved here first.
        progress: Called with the responses' worth of work done between two that are yielded,
            fractions included.
        note: Shows a text behind the progress bar.
        seen_responses: The (query's id, response) pairs that are stored.
        turns: Answers a conversation; the user of the later turns is simulated. An answer that
            `max_tokens` cut may be the last one.
        model_name: As in `model.name`: the model that is baked. Empty where it is not known.
        scores: What `sample_responses` may score on the way; None for nothing.
    """

    prompt: Prompt
    requests: tuple[GenerationRequest, ...]
    completed_ids: frozenset[str]
    max_tokens: int
    seed: int
    open_model: Callable[[], Model]
    budget: Budget
    progress: Callable[[float], None] = no_progress
    note: Callable[[str], None] = no_note
    seen_responses: frozenset[tuple[str, str]] = frozenset()
    turns: int = 1
    model_name: str = ""
    scores: ResponseScores | None = None


class DataProvider(Protocol):
    """Yields conversations: the prompted model's responses, stored without the prompt."""

    def queries(self) -> Sequence[Query]:
        """The provider's own queries, the same each time; empty where it answers given ones."""
        ...

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """What `generate` would cost for all that is not completed, at `max_tokens` each."""
        ...

    def generate(self, job: GenerationJob) -> Iterator[Conversation | Rejection]:
        """Yield each conversation as it is ready; its id is its request's, where it has one.

        A response that is not to be kept is yielded as a Rejection: it is counted, and not
        requested again. May be called more than once.

        Raises:
            BakeError: It cannot work at all (no model, no key, too many turns): raised by the call
                itself, before the first item, when nothing has been written yet.
        """
        ...


class Teacher(Protocol):
    """Yields the prompted model's distribution at the response positions."""

    @property
    def samples_tail(self) -> bool:
        """Whether it draws tokens from outside the top K.

        Where it does not, `train.tail = "auto"` takes `bucket`, and `score` is asked for no draws.
        """
        ...

    def score(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """The top K and the draws at each response position.

        A span's result does not depend on the other spans, and its draws depend on its own seed
        and on no global state.

        Args:
            spans: The sequences as the teacher reads them; equal spans are scored twice.
            k: K, the most likely tokens wanted at each position.
            draws: M, 0 for none.
            seeds: One a span.
            open_model: Opens the model that the teacher is: the base model, or a baked one where
                the run says so.

        Returns:
            Pairs of the span's index and its log-probabilities, as they are ready.

        Raises:
            BakeError: A span cannot be scored.
        """
        ...
