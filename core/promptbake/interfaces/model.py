"""A language model that can be sampled and scored, and its chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from promptbake.costs import CostEstimate, WorkItem
from promptbake.types import Completion, Message, Span, StreamChunk, TeacherLogprobs, TokenIds

if TYPE_CHECKING:
    from torch import Tensor

T_co = TypeVar("T_co", covariant=True)


def no_progress(done: float) -> None:
    """Ignore the progress."""


class Pending(Protocol[T_co]):
    """A result that may still be on its way. A local backend returns `ImmediateResult`."""

    def result(self) -> T_co:
        """Wait for the value."""
        ...


class Renderer(Protocol):
    """The chat template: messages to tokens and back. One for the teacher and the student both."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end the assistant's turn."""
        ...

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        """Render turns that end with the user's, up to where the assistant starts to speak.

        With `system` None, exactly what a user of the baked model gets: no system message is
        given, and a template that has a default one inserts it.
        """
        ...

    def response(self, text: str, complete: bool) -> TokenIds:
        """The response's tokens, with the end-of-turn token where the turn is complete."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """Response tokens back to text; special tokens are left out."""
        ...


class Model(Protocol):
    """A language model that can be sampled from and scored: the base model, or a baked one.

    Given no rows, each method gives nothing; for a sequence that is longer than the context it
    raises BakeError. Seeds have up to 63 bits. Tensors may be on any device.
    """

    @property
    def name(self) -> str:
        """As in `model.name`, or the model's own where the backend has but one."""
        ...

    @property
    def digest(self) -> str:
        """Changes when the base model's weights, its tokenizer or its chat template do."""
        ...

    @property
    def context_tokens(self) -> int:
        """The most tokens that a sequence may have."""
        ...

    @property
    def renderer(self) -> Renderer:
        """The model's chat template."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Lines that a user should see once about how this model is used; mostly none."""
        ...

    @property
    def full_vocabulary(self) -> bool:
        """Whether `logprobs` can return the whole vocabulary."""
        ...

    @property
    def sample_batch(self) -> int | None:
        """How many prompts one call of `sample` best takes; None for any number.

        Rounding may let a response depend on the other rows of its batch, so a caller that wants
        the same responses again asks for the same batches again. None promises that it does not.
        """
        ...

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        """Sample one response a prompt.

        Args:
            prompts: Rendered turns.
            max_tokens: The most tokens that a response may have.
            temperatures: One a prompt; 0 is greedy.
            seeds: One a prompt: a response depends on its own seed and on no global state.
            progress: Called with the responses' worth of work done since the last call, fractions
                included.

        Returns:
            Pairs of the prompt's index and its response, in any order, each as it is ready.
        """
        ...

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[StreamChunk]:
        """Sample one response piece by piece; the last chunk says why it ended."""
        ...

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """The K most likely tokens at each response position, and draws for the others.

        Each with its span's index, as it is ready. A span's result does not depend on the other
        spans, but for rounding on a GPU.
        """
        ...

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Log-probabilities at each response position, in the order of the spans.

        Args:
            spans: The sequences.
            ids: Token ids to score, int64 [N, K] for each span; None for the whole vocabulary,
                where `full_vocabulary` says that it can be had.

        Returns:
            For each span float32 [N, K], or [N, V], in nats.
        """
        ...

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        """What such work would cost, before any of it is sent."""
        ...


class ScoringSampler(Protocol):
    """What a model may offer besides: its own responses' top K, taken while it samples them."""

    def sample_with_top_k(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        k: int,
        draws: int,
        draw_seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion, TeacherLogprobs]]:
        """`Model.sample`, and at each response position what `Model.top_k` gives.

        Positions: one for each token of the response, and one for the end-of-turn token if it is
        complete. At temperature 1, whatever it is sampled at. Between the two ways there may be a
        difference of rounding, under 1e-4 nats in float32.
        """
        ...
