"""What a plugin's objects must be able to do. Protocols: a plugin inherits nothing.

Tensors are torch tensors; log-probabilities are natural logarithms. Axes: N response positions,
K columns, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from promptbake.costs import Budget
from promptbake.types import (
    ArmAnswers,
    Checkpoint,
    Completion,
    Conversation,
    CostEstimate,
    Datums,
    Example,
    GenerationRequest,
    LossSupport,
    Measurement,
    Message,
    Prompt,
    Query,
    Rejection,
    Span,
    StepMetrics,
    TeacherLogprobs,
    TokenIds,
    Work,
)

if TYPE_CHECKING:
    from torch import Tensor

T_co = TypeVar("T_co", covariant=True)
TrainingState = Mapping[
    str, bytes
]  # a training state: the files that it is written to, by plain name


def no_progress(done: float) -> None:
    """Where nobody wants to know the progress."""


def no_note(note: str) -> None:
    """Where nobody reads the note."""


class Pending(Protocol[T_co]):
    """A result that may still be on its way. A local backend returns `types.Done`."""

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

    Asked for nothing, each method gives nothing; for what does not fit into the context it raises.
    Seeds have up to 63 bits. Tensors may be on any device.
    """

    @property
    def name(self) -> str:
        """As in `model.name`, or the model's own where the backend has but one."""
        ...

    @property
    def digest(self) -> str:
        """Changes when the base model's weights do."""
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
        """What a user should be told once about how this model is used; mostly nothing."""
        ...

    @property
    def full_vocabulary(self) -> bool:
        """Whether `logprobs` can return the whole vocabulary."""
        ...

    @property
    def sample_batch(self) -> int | None:
        """How many prompts are best answered in one call of `sample`; None for any number.

        Rounding may let an answer depend on its company, so a caller that wants the same answers
        again asks for the same batches again. None promises that it does not.
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
        """Sample one response a prompt: each with its prompt's index, as it is ready.

        Temperature 0 is greedy.

        `progress` is told how many responses' worth of work is done, parts of one included.
        """
        ...

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[int]:
        """Sample one response, token by token, without its end-of-turn token."""
        ...

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """The K most likely tokens at each response position and draws for the others.

        Each with its span's index, as it is ready. A span's result does not depend on the other
        spans, but for rounding on a GPU.
        """
        ...

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        """Log-probabilities at each response position, in the order of the spans.

        Of the given `ids` (int64 [N, K] for each span) as [N, K]; with None, of the whole
        vocabulary as [N, V], where `full_vocabulary` says that this can be had.
        """
        ...

    def estimate_cost(self, work: Work) -> CostEstimate:
        """What such work would take, before any of it is sent."""
        ...


class Objective(Protocol):
    """What a trainer minimises: a function of the student's log-probabilities at the columns."""

    def nats(self, student: Tensor, columns: LossSupport) -> Tensor:
        """The loss at each response position, nats [N], of log-probabilities [N, C]."""
        ...

    def weights(self, columns: LossSupport) -> Tensor | None:
        """The weights [N, C] of a weighted cross-entropy with this gradient, if there are any.

        A backend with a cross-entropy of its own may then use that, in one pass.
        """
        ...


class Trainer(Protocol):
    """A LoRA in training on a base model: Tinker's verbs, so that every backend shares one loop.

    What is asked of it is done in the order in which it is asked, whenever the result is waited
    for: a snapshot or a state is that of the moment at which it was asked for.
    """

    @property
    def steps_in_flight(self) -> int:
        """How many steps are best under way at a time: 1 where nothing is gained by more."""
        ...

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Find out, before the teacher is asked and paid, what would fail later: BakeError.

        `k` and `draws` are what the teacher will be asked for, 0 where none is asked. Returns
        lines for the user: what is done another way because of what was found.
        """
        ...

    def snapshot(self) -> Pending[Model]:
        """The student as it stands. A local one may change with the next step."""
        ...

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Add the batch's gradient; the loss is the mean over its response tokens, in nats."""
        ...

    def optim_step(self, lr: float) -> Pending[None]:
        """Take one AdamW step with the gradient that has gathered, and clear it."""
        ...

    def save_state(self, step: int) -> Pending[TrainingState]:
        """All that training needs to go on after `step` steps."""
        ...

    def load_state(self, folder: Path) -> None:
        """Go on from the files of a state."""
        ...

    def save_adapter(self, folder: Path) -> Checkpoint:
        """Write the weights for use into an empty folder (PEFT's format where possible).

        The checkpoint's `uri` is empty where they are in the folder, which may be moved.
        """
        ...


class Backend(Protocol):
    """An engine: opens a base model, trains a LoRA on it, loads a checkpoint."""

    @property
    def name(self) -> str:
        """As in `train.backend`."""
        ...

    def open_model(self, name: str, budget: Budget) -> Model:
        """Open a base model, frozen. Raises BakeError for what is no model.

        All that is paid for through this model, and through those made from it, is held against
        the budget first.
        """
        ...

    def new_lora(self, base: Model, *, rank: int, seed: int, datums: Datums = "one") -> Trainer:
        """A fresh LoRA on `base`, which goes on to answer as the base model.

        `datums` is `train.datums`; a backend that has no use for it refuses by BakeError.
        """
        ...

    def load_adapter(self, base: Model, checkpoint: Checkpoint) -> Model:
        """The baked model; `base` goes on to answer as the base model.

        Raises BakeError where there is no adapter, or one of another model.
        """
        ...

    def export(self, base: Model, checkpoint: Checkpoint, folder: Path) -> None:
        """Bring the adapter home: a PEFT adapter in an empty folder. Raises as `load_adapter`."""
        ...


@dataclass(frozen=True)
class GenerationJob:
    """What a data provider is asked for.

    `plan` is the whole of it, in the same order each time, so that a provider that works in
    batches can form the same batches after a kill; requests whose id is in `done` are stored
    already and are not to be yielded again. `open_model` opens the configured base model, for
    providers that use it; what is paid for elsewhere is held against `budget` first. `progress`
    may be told how many responses' worth of work is done between two that are yielded, parts of
    one included; `note` stands behind the progress bar. `seen` are the (query's id, response) pairs
    that are stored. A conversation has `turns` answers; the user of the later turns is simulated.
    """

    prompt: Prompt
    plan: tuple[GenerationRequest, ...]
    done: frozenset[str]
    max_tokens: int
    seed: int
    open_model: Callable[[], Model]
    budget: Budget
    progress: Callable[[float], None] = no_progress
    note: Callable[[str], None] = no_note
    seen: frozenset[tuple[str, str]] = frozenset()
    turns: int = 1


class DataProvider(Protocol):
    """Yields conversations: the prompted model's responses, without the prompt."""

    def queries(self) -> Sequence[Query]:
        """Queries that the provider brings along; empty where it answers those it is given.

        The same each time.
        """
        ...

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """What `generate` would take for all that is not done, responses at their longest."""
        ...

    def generate(self, job: GenerationJob) -> Iterator[Conversation | Rejection]:
        """Yield each conversation as it is ready; its id is its request's, where it has one.

        What came and is not to be kept is yielded as a Rejection: it is counted, and not asked for
        again.

        What cannot work at all (no model, no key, too many turns) is refused by the call itself,
        by BakeError, before the first item is asked for: nothing has been written then. May be
        called more than once.
        """
        ...


class Teacher(Protocol):
    """Yields the prompted model's distribution at the response positions."""

    def targets(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """One `TeacherLogprobs` a span, with the span's index, as it is ready; equal spans are two.

        A span's result does not depend on the other spans, and its draws depend on its own seed and
        on no global state. `draws` is M, 0 for none; a teacher that draws nothing itself gives the
        response's own tokens as the one draw, whatever M is. Raises BakeError for what it cannot
        answer.
        """
        ...


class Loss(Protocol):
    """A pure torch function of log-probabilities.

    `targets` tells what it is computed on: the `teacher`'s distribution, or the `response` token
    alone (one column with log-probability 0; no teacher is asked). `linear` promises that the
    loss is linear in the student's log-probabilities, so that its weights are its gradient.
    """

    @property
    def targets(self) -> Literal["teacher", "response"]:
        """What the columns hold."""
        ...

    @property
    def linear(self) -> bool:
        """Whether the loss is linear in the student's log-probabilities."""
        ...

    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        """Nats [N] from log-probabilities [N, C].

        `measure` [N, C] says how many entries of the vocabulary a column stands for: 1 for
        itself, more for one drawn from the tail. A sum over the vocabulary is a sum of
        `measure * term` over the columns.
        """
        ...


@dataclass(frozen=True)
class EvalContext:
    """What an evaluator may look at: the test questions, answered by the arms."""

    prompt: Prompt
    answers: tuple[ArmAnswers, ...]


class Evaluator(Protocol):
    """Measures the arms."""

    def evaluate(self, evidence: EvalContext) -> Sequence[Measurement]:
        """Named measurements, each with a finite value for every arm that it speaks of.

        An arm that did not answer has none.
        """
        ...


class Tracker(Protocol):
    """Receives a run's metrics, and writes nothing outside the run's folder but what it must."""

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """A run goes on after `step`, or begins anew where it is 0: what was told later is void."""
        ...

    def log(self, metrics: StepMetrics) -> None:
        """One optimiser step; None is what was not measured. To be kept even if a kill comes."""
        ...

    def finish(self) -> None:
        """The run has ended, or was cut short by an error."""
        ...
