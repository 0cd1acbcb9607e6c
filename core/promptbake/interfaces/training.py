"""Training a LoRA: losses, objectives, trainers, backends, sources of batches, trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from promptbake.costs import Budget
from promptbake.interfaces.model import Model, Pending
from promptbake.types import (
    BakeTarget,
    Checkpoint,
    Conversation,
    Example,
    LossSupport,
    Query,
    StepMetrics,
)

if TYPE_CHECKING:
    from torch import Tensor

TrainingState = Mapping[str, bytes]  # the files that a training state is written to, by plain name


class Loss(Protocol):
    """A pure torch function of log-probabilities."""

    @property
    def support(self) -> Literal["teacher", "student", "response"]:
        """Whose tokens it is evaluated on.

        - `teacher`: the teacher's top K, and what `train.tail` makes of the others.
        - `student`: the student's own, at the step; a source of batches on policy supplies them.
        - `response`: the response token alone, with log-probability 0; no teacher is needed.
        """
        ...

    @property
    def linear(self) -> bool:
        """Whether it is linear in the student's log-probabilities, which are then its weights."""
        ...

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """The loss at each response position.

        Args:
            student: float32 [N, C], log-probabilities in nats.
            teacher: float32 [N, C], log-probabilities in nats.
            importance_weights: float32 [N, C], how many tokens of the vocabulary each stands for: 1
                for itself, more for one drawn from the tail. A sum over the vocabulary is a sum of
                `importance_weights * term`.

        Returns:
            Nats [N].
        """
        ...


class Objective(Protocol):
    """What a trainer minimises: a function of the student's log-probabilities on a support."""

    def nats(self, student: Tensor, support: LossSupport) -> Tensor:
        """The loss at each response position, nats [N], of log-probabilities [N, C]."""
        ...

    def weights(self, support: LossSupport) -> Tensor | None:
        """The weights [N, C] of a weighted cross-entropy with this gradient, if there are any.

        A backend with a cross-entropy of its own may then use that, in one pass.
        """
        ...

    def loss_and_gradient(self, student: Tensor, support: LossSupport) -> tuple[Tensor, Tensor]:
        """The loss, nats [N], and its gradient with respect to the log-probabilities, [N, C].

        For a backend without torch's autograd: it continues from the gradient by its own means.
        """
        ...


class Trainer(Protocol):
    """A LoRA in training on a base model: Tinker's verbs, so that every backend shares one loop.

    Requests are carried out in the order in which they are made, whenever the result is waited
    for: a snapshot or a state is that of the moment at which it was requested.
    """

    @property
    def steps_in_flight(self) -> int:
        """How many steps are best in flight at a time: 1 where nothing is gained by more."""
        ...

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Find out what would fail later, before the teacher is paid.

        Args:
            k: K, as the teacher will be asked for; 0 where no teacher is needed.
            draws: M, as the teacher will be asked for.

        Returns:
            Lines for the user: what is done another way because of what the check showed.

        Raises:
            BakeError: Training cannot work.
        """
        ...

    def snapshot(self) -> Pending[Model]:
        """The student as it stands. A local one may change with the next step."""
        ...

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Add the batch's gradient; the loss is the mean over its response tokens, in nats."""
        ...

    def optim_step(self, lr: float) -> Pending[None]:
        """Take one AdamW step with the accumulated gradient, and clear it."""
        ...

    def save_state(self, step: int) -> Pending[TrainingState]:
        """All that training needs to resume after `step` steps."""
        ...

    def load_state(self, folder: Path) -> None:
        """Resume from the files of a state."""
        ...

    def save_adapter(self, folder: Path) -> Checkpoint:
        """Write the weights for use into an empty folder (PEFT's format where possible).

        The checkpoint's `uri` is empty where they are in the folder, which may be moved.
        """
        ...


class Backend(Protocol):
    """An engine: opens a base model, trains a LoRA on it, loads a checkpoint.

    One that can open a model's renderer without its weights may also have a method
    `open_renderer(name) -> Renderer`: conversations are then rendered when they are generated, and
    those that it raises BakeError for are left out. One that keeps sessions with a service may have
    `note_failure(error)`, which is called when a command ends with an error. One may have a method
    `model_digest(name) -> str | None`: the digest of the model that `open_model` would open,
    without opening it, or None where that cannot be told. Without it the model is opened where a
    stage only asks whether it is still the same.
    """

    @property
    def name(self) -> str:
        """As in `train.backend`."""
        ...

    def open_model(self, name: str, budget: Budget) -> Model:
        """Open a base model, frozen.

        Args:
            name: As in `model.name`.
            budget: Whatever is paid for through this model, and through those made from it, is
                reserved here first.

        Raises:
            BakeError: There is no such model.
        """
        ...

    def new_lora(
        self, base: Model, *, rank: int, seed: int, start: Checkpoint | None = None
    ) -> Trainer:
        """A LoRA on `base`, which still answers as the base model.

        Args:
            base: A model that this backend opened.
            rank: Of the LoRA.
            seed: Of its fresh weights.
            start: An earlier bake whose weights it starts from; None for fresh ones.

        Raises:
            BakeError: `start` has another rank, or is none of this backend's.
        """
        ...

    def load_adapter(self, base: Model, checkpoint: Checkpoint, *, strength: float = 1.0) -> Model:
        """The baked model; `base` still answers as the base model.

        Args:
            base: A model that this backend opened.
            checkpoint: The adapter.
            strength: What its change of the weights is multiplied by: 0 is the base model.

        Raises:
            BakeError: There is no adapter, it is one of another model, or the backend cannot load
                it at this strength.
        """
        ...

    def export(
        self, base: Model, checkpoint: Checkpoint, folder: Path, *, strength: float = 1.0
    ) -> None:
        """Write the adapter into an empty folder in PEFT's format. Raises as `load_adapter`."""
        ...


@dataclass(frozen=True)
class BatchContext:
    """What a source of batches may use.

    Attributes:
        examples: The run's stored conversations, scored by the teacher.
        targets: What is to be learned.
        queries: Each target's training queries, by the target's name.
        open_model: Opens the base model.
        score: Turns conversations, each with its `target`, into examples; where the loss is
            evaluated on the student's own tokens, the second argument is the student.
        batch_size: As in `train.batch_size`.
        max_tokens: As in `data.max_tokens`.
        seed: The run's.
    """

    examples: tuple[Example, ...]
    targets: tuple[BakeTarget, ...]
    queries: Mapping[str, tuple[Query, ...]]
    open_model: Callable[[], Model]
    score: Callable[[Sequence[Conversation], Model | None], list[Example]]
    batch_size: int
    max_tokens: int
    seed: int


class BatchSource(Protocol):
    """Where the training loop takes its batches from: the store, the student itself, or both."""

    def next_batch(self, step: int, student: Trainer) -> Sequence[Example]:
        """The batch of a step, counted from 0.

        A function of the step and of the student's weights alone, so that a run that resumes sees
        the same batches.
        """
        ...


class Tracker(Protocol):
    """Receives a run's metrics; writes nothing outside the run's folder that it need not."""

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """A run resumes after `step`, or begins where it is 0: later metrics are discarded."""
        ...

    def log(self, metrics: StepMetrics) -> None:
        """One optimizer step; None is what was not measured. Kept even if the process is killed."""
        ...

    def finish(self) -> None:
        """The run has ended, or was stopped by an error."""
        ...
