"""A small job, and the tiny model as a service that bills what it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from promptbake.costs import Budget, CostEstimate, Reservation, Usage, WorkItem
from promptbake.interfaces import Model, Objective, Pending, Trainer, TrainingState
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import Registry
from promptbake.progress import SilentReporter
from promptbake.runs.layers import resolve
from promptbake.runs.session import Session, open_session
from promptbake.types import Checkpoint, Completion, Example, Span, TeacherLogprobs, TokenIds
from promptbake_mock.tiny import NAME, tiny_backend

T = TypeVar("T")
PROMPT = "Speak as a pirate — always."
LONGEST = 6  # tokens of a response, and of an answer
QUERIES = ("Who?", "Where to?", "Why not?", "What is that?", "Since when?", "How many are there?")
QUESTIONS = ("Eh?", "And now?", "What next?")
SETTINGS = (
    "data.held_out=2",
    f"data.max_tokens={LONGEST}",
    "data.temperatures=[0.5, 1.0]",
    "train.batch_size=3",
    "train.epochs=2",
    "train.rank=2",
    "train.eval_every=4",
    f"verify.max_tokens={LONGEST}",
    "verify.min_gap_closed=-9",
)
N_TRAINING, N_HELD_OUT = 8, 2  # 4 queries at two temperatures; held-out ones have one answer each
STEPS = 6  # 8 conversations in batches of 3, 3 and 2, twice


def write_prompt(folder: Path) -> Path:
    """The job's prompt, queries and questions, in files."""
    (folder / "queries.txt").write_text("\n".join(QUERIES))
    (folder / "questions.txt").write_text("\n".join(QUESTIONS))
    (folder / "pirate.md").write_text(PROMPT + "\n", "utf-8")
    return folder / "pirate.md"


def opened(
    prompt: Path, *settings: str, run: str = "run", factories: Sequence[PluginFactory] = ()
) -> Session:
    """A session with profile `mock` and the small settings; `factories` come on top."""
    folder = prompt.parent
    files = (f"data.queries={folder}/queries.txt", f"verify.questions={folder}/questions.txt")
    session = open_session(
        prompt,
        profile="mock",
        config_file=None,
        settings=(),
        run=folder / run,
        reporter=SilentReporter(),
    )
    registry = Registry((*session.registry.factories, *factories))
    resolved = resolve("mock", settings=(*files, *SETTINGS, *settings), registry=registry)
    return replace(session, resolved=resolved, registry=registry)


@dataclass(frozen=True)
class Tariff:
    """Dollars for 1024 tokens, None where they are unknown, or for a step; records the estimates.

    With dollars for a step, everything else is free.
    """

    dollars: float | None = 1.0
    step: float | None = None
    works: list[WorkItem] = field(default_factory=list)

    def priced(self, what: str, usage: Usage) -> Usage:
        tokens = usage.input_tokens + usage.output_tokens + usage.train_tokens
        dollars = tokens * (self.dollars or 0) / 1024
        if self.step is not None:
            dollars = self.step if what == "train" else 0
        return replace(usage, dollars=dollars)


class MeteredModel:
    """The tiny model, which gives its top K at most, and a bill for each call."""

    full_vocabulary = False
    sample_batch = None
    sample_with_top_k = None  # each kind of work has a bill of its own

    def __init__(self, inner: Any, tariff: Tariff, budget: Budget) -> None:
        self.inner, self.tariff, self.budget = inner, tariff, budget

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # its name, its digest, its renderer

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        self.tariff.works.append(work)
        usage = self.tariff.priced(work.kind, self.inner.estimate_cost(work).usage)
        return CostEstimate(usage, self.tariff.dollars is not None, None, "the tariff of today")

    def sample(
        self, prompts: Sequence[TokenIds], *, max_tokens: int, **how: Any
    ) -> Iterator[tuple[int, Completion]]:
        for prompt in prompts:  # billed at its longest
            self.bill("sample", Usage(1, input_tokens=len(prompt), output_tokens=max_tokens))
        return self.inner.sample(prompts, max_tokens=max_tokens, **how)

    def top_k(self, spans: Sequence[Span], **how: Any) -> Iterator[tuple[int, TeacherLogprobs]]:
        self.read("top_k", spans)
        return self.inner.top_k(spans, **how)

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        assert ids is not None
        self.read("logprobs", spans)
        return self.inner.logprobs(spans, ids)

    def read(self, what: str, spans: Sequence[Span]) -> None:
        for span in spans:
            self.bill(what, Usage(1, input_tokens=len(span.tokens)))

    def bill(self, what: str, usage: Usage) -> None:
        priced = self.tariff.priced(what, usage)
        self.budget.reserve(what, priced).commit(priced)


class Lazy(Generic[T]):
    """Done when it is waited for, after everything that was requested before it."""

    def __init__(self, queue: list[Lazy[Any]], do: Callable[[], T]) -> None:
        self._queue, self._do, self._values = queue, do, list[T]()
        queue.append(self)

    def result(self) -> T:
        while not self._values:
            first = self._queue.pop(0)
            first._values.append(first._do())
        return self._values[0]


class MeteredTrainer:
    """The tiny model's trainer with two steps in flight, and a bill for each of them."""

    steps_in_flight = 2

    def __init__(self, inner: Trainer, base: MeteredModel) -> None:
        self._inner, self._base = inner, base
        self._queue: list[Lazy[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def snapshot(self) -> Pending[Any]:
        return self._later(lambda: self._metered(self._inner.snapshot().result()))

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        tokens = sum(len(example.datum.student_ids) for example in batch)
        usage = self._base.tariff.priced("train", Usage(1, train_tokens=tokens))
        reservation = self._base.budget.reserve("train", usage)
        return self._later(lambda: self._billed(batch, objective, reservation, usage))

    def optim_step(self, lr: float) -> Pending[None]:
        return self._later(lambda: self._inner.optim_step(lr).result())

    def save_state(self, step: int) -> Pending[TrainingState]:
        return self._later(lambda: self._inner.save_state(step).result())

    def save_adapter(self, folder: Path) -> Checkpoint:
        assert not self._queue  # nothing may be in flight any more
        return replace(self._inner.save_adapter(folder), backend=MeteredBackend.name)

    def _later(self, do: Callable[[], T]) -> Lazy[T]:
        return Lazy(self._queue, do)

    def _metered(self, student: Model) -> MeteredModel:
        return MeteredModel(student, self._base.tariff, self._base.budget)

    def _billed(
        self,
        batch: Sequence[Example],
        objective: Objective,
        reservation: Reservation,
        usage: Usage,
    ) -> float:
        loss = self._inner.forward_backward(batch, objective).result()
        reservation.commit(usage)
        return loss


class MeteredBackend:
    """Opens the tiny model as a service would."""

    name = "metered"

    def __init__(self, tariff: Tariff) -> None:
        self._tiny, self._tariff = tiny_backend(), tariff

    def open_model(self, name: str, budget: Budget) -> MeteredModel:
        return MeteredModel(self._tiny.open_model(NAME), self._tariff, budget)

    def new_lora(self, base: MeteredModel, **how: Any) -> MeteredTrainer:
        return MeteredTrainer(self._tiny.new_lora(base.inner, **how), base)

    def load_adapter(
        self, base: MeteredModel, checkpoint: Checkpoint, *, strength: float = 1.0
    ) -> MeteredModel:
        baked = self._tiny.load_adapter(base.inner, checkpoint, strength=strength)
        return MeteredModel(baked, base.tariff, base.budget)


def metered(prompt: Path, tariff: Tariff, *settings: str, run: str = "run") -> Session:
    """A session on the service."""
    factory = PluginFactory("backends", "metered", "test", "1", lambda: MeteredBackend(tariff))
    chosen = ("train.backend=metered", "data.provider=self", *settings)
    return opened(prompt, *chosen, run=run, factories=[factory])
