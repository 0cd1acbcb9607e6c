"""A model and a budget that record how they are called, for tests of their callers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptbake.costs import Usage
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import Model, no_progress
from promptbake.types import Completion, StreamChunk, TokenIds

if TYPE_CHECKING:
    pass

FAILURE = "the model has failed, as its `fails_after` says"


@dataclass(frozen=True)
class Sampled:
    """A request for one response, and the response."""

    prompt: TokenIds
    max_tokens: int
    temperature: float
    seed: int
    completion: Completion


class RecordingModel:
    """Answers as another model does, and keeps in `sampled` the requests and the responses.

    `sample_batch` takes the place of that model's own. With `backwards`, the response to the last
    prompt of a call is ready first. Every turn ends after `ends_after` tokens, and after
    `fails_after` responses each call raises BakeError.
    """

    def __init__(
        self,
        model: Model,
        *,
        sample_batch: int | None = None,
        backwards: bool = False,
        ends_after: int | None = None,
        fails_after: int | None = None,
    ) -> None:
        self._model, self.sample_batch = model, sample_batch or model.sample_batch
        self._backwards, self._ends_after, self._fails_after = backwards, ends_after, fails_after
        self.name, self.digest, self.context_tokens = model.name, model.digest, model.context_tokens
        self.renderer, self.warnings = model.renderer, model.warnings
        self.full_vocabulary = model.full_vocabulary
        self.top_k, self.logprobs = model.top_k, model.logprobs
        self.estimate_cost = model.estimate_cost
        self.sampled: list[Sampled] = []

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        """The other model's responses, each kept as it is handed on."""
        responses = self._model.sample(
            prompts,
            max_tokens=max_tokens,
            temperatures=temperatures,
            seeds=seeds,
            progress=progress,
        )
        for index, response in reversed(list(responses)) if self._backwards else responses:
            if self._fails_after is not None and len(self.sampled) >= self._fails_after:
                raise BakeError(FAILURE)
            end = self._ends_after
            if end is not None and len(response.tokens) > end:
                response = Completion(response.tokens[:end], complete=True)
            how = max_tokens, temperatures[index], seeds[index]
            self.sampled.append(Sampled(prompts[index], *how, response))
            yield index, response

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[StreamChunk]:
        """Such a response in one chunk."""
        ((_, whole),) = self.sample(
            [prompt], max_tokens=max_tokens, temperatures=[temperature], seeds=[seed]
        )
        yield StreamChunk(whole.tokens, "stop" if whole.complete else "length")


@dataclass
class RecordedReservation:
    """Money that was reserved, and what the work cost once it is committed."""

    what: str
    usage: Usage
    committed: Usage | None = None

    def commit(self, usage: Usage) -> None:
        """The work is done."""
        self.committed = usage


@dataclass
class RecordingBudget:
    """Records what is reserved, in `reservations`; after `refuses_after` of them it refuses."""

    capped: bool = False
    refuses_after: int | None = None
    reservations: list[RecordedReservation] = field(default_factory=list)
    refused: int = 0  # how often

    def reserve(self, what: str, usage: Usage) -> RecordedReservation:
        """Record the reservation. Raises BudgetError where it is to refuse."""
        if self.refuses_after is not None and len(self.reservations) >= self.refuses_after:
            self.refused += 1
            raise BudgetError("the budget has refused, as its `refuses_after` says")
        reservation = RecordedReservation(what, usage)
        self.reservations.append(reservation)
        return reservation
