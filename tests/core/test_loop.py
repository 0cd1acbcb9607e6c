"""The training loop: steps in flight, and a run that its budget stops and that goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptbake.costs import Budget, Reservation, Usage
from promptbake.distill.batches import StoredBatches
from promptbake.distill.loop import Step, steps
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.errors import BakeError, BudgetError
from promptbake.files import read_json_lines
from promptbake.interfaces import Model, Objective, Pending, Trainer, TrainingState
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import Registry, load
from promptbake.progress import SilentReporter
from promptbake.runs.config import resolve
from promptbake.runs.ledger import Ledger
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.stages import bake, data
from promptbake.types import BakeTarget, Checkpoint, Datum, Example, LossSupport, Prompt
from promptbake_losses.divergences import ForwardKL
from promptbake_mock.tiny import NAME, tiny_backend

T = TypeVar("T")
OBJECTIVE = TailedLoss(ForwardKL(), "drop")
NOTHING = LossSupport(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1))
EXAMPLES = [
    Example(Datum(f"c{n}", "q", (7, *range(n + 1)), (8, 9, *range(n + 1)), n + 1), NOTHING)
    for n in range(6)
]
TEN_STEPS = Schedule(n_examples=6, batch_size=3, epochs=5, lr=0.5, seed=0)
TEN_BATCHES = StoredBatches(EXAMPLES, TEN_STEPS)


@dataclass(frozen=True)
class Waited(Generic[T]):
    """A result that is there only once it is waited for, which is written down."""

    events: list[str]
    event: str
    value: T

    def result(self) -> T:
        """The value."""
        self.events.append(f"wait {self.event}")
        return self.value


@dataclass
class RecordingTrainer:
    """A trainer that learns nothing and writes down what is asked of it, and in which order."""

    steps_in_flight: int = 1
    losses: Mapping[int, float] = field(default_factory=dict)  # of a step, where it is not 1
    paid_for: int = 99  # steps, before the budget is reached
    events: list[str] = field(default_factory=list)
    batches: list[list[Example]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """The number of the last step that was sent, from 1."""
        return len(self.batches)

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """The loss of the step."""
        assert objective is OBJECTIVE
        if self.sent == self.paid_for:
            raise BudgetError("budget.max_dollars")
        self.batches.append(list(batch))
        return self._pending("gradient", self.losses.get(self.sent, 1.0))

    def optim_step(self, lr: float) -> Pending[None]:
        """Nothing."""
        self.rates.append(lr)
        return self._pending("step", None)

    def snapshot(self) -> Pending[Any]:
        """The number of the step that it stands behind."""
        return self._pending("snapshot", self.sent)

    def save_state(self, step: int) -> Pending[TrainingState]:
        """What it was told that it is the state of."""
        return self._pending("state", {"step": str(step).encode()})

    def in_flight(self) -> list[int]:
        """How many steps were sent and not waited for, after each event."""
        starts = [event.startswith("send gradient") for event in self.events]
        ends = [event.startswith("wait gradient") for event in self.events]
        return [sum(starts[: n + 1]) - sum(ends[: n + 1]) for n in range(len(starts))]

    def _pending(self, what: str, value: T) -> Waited[T]:
        event = f"{what} {self.sent}"
        self.events.append(f"send {event}")
        return Waited(self.events, event, value)


def taken(trainer: Any, schedule: Schedule = TEN_STEPS, **how: int) -> list[Step]:
    return list(steps(trainer, StoredBatches(EXAMPLES, schedule), OBJECTIVE, schedule, **how))


def positions(found: Sequence[Step], what: str) -> list[int]:
    """The steps behind which something was asked for."""
    return [step.metrics.step for step in found if getattr(step, what) is not None]


def test_one_step_at_a_time_is_waited_for_before_the_next_is_sent() -> None:
    trainer = RecordingTrainer(steps_in_flight=1)
    taken(trainer, Schedule(n_examples=6, batch_size=3, epochs=1, lr=1, seed=0))
    assert trainer.events == [
        *("send gradient 1", "send step 1", "wait gradient 1", "wait step 1"),
        *("send gradient 2", "send step 2", "wait gradient 2", "wait step 2"),
    ]


def test_the_next_step_is_sent_before_the_last_one_is_waited_for() -> None:
    trainer = RecordingTrainer(steps_in_flight=2)
    taken(trainer, Schedule(n_examples=6, batch_size=3, epochs=1, lr=1, seed=0), eval_every=1)
    assert trainer.events == [
        *("send gradient 1", "send step 1", "send snapshot 1"),
        *("send gradient 2", "send step 2", "send snapshot 2"),
        *("wait gradient 1", "wait step 1"),
        *("wait gradient 2", "wait step 2"),
    ]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_as_many_steps_are_in_flight_as_the_trainer_wants_and_no_more(in_flight: int) -> None:
    trainer = RecordingTrainer(steps_in_flight=in_flight)
    taken(trainer)
    assert max(trainer.in_flight()) == in_flight
    assert trainer.in_flight()[-1] == 0
    for step in range(in_flight, 10):  # it is never idle, either
        sent = trainer.events.index(f"send gradient {step + 1}")
        assert f"wait gradient {step + 2 - in_flight}" not in trainer.events[:sent]


@pytest.mark.parametrize("in_flight", [1, 2, 3, 20])
def test_results_come_in_the_order_of_the_steps_and_do_not_depend_on_how_many_are_in_flight(
    in_flight: int,
) -> None:
    losses = {step: step / 8 for step in range(1, 11)}
    trainer = RecordingTrainer(in_flight, losses)
    found = [step.metrics for step in taken(trainer)]
    assert [metrics.step for metrics in found] == list(range(1, 11))
    assert {metrics.step: metrics.loss for metrics in found} == losses
    assert [metrics.lr for metrics in found] == trainer.rates
    assert trainer.rates == [TEN_STEPS.learning_rate(step) for step in range(10)]
    assert [metrics.epoch for metrics in found] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {metrics.steps for metrics in found} == {10}
    assert all(metrics.seconds is not None and metrics.seconds >= 0 for metrics in found)
    for step, (batch, metrics) in enumerate(zip(trainer.batches, found, strict=True)):
        assert batch == [EXAMPLES[index] for index in TEN_STEPS.batch(step)]
        assert metrics.tokens == sum(example.datum.n_response for example in batch)


@given(
    in_flight=st.integers(1, 4),
    first=st.integers(0, 10),
    eval_every=st.integers(0, 11),
    save_every=st.integers(0, 11),
)
def test_snapshots_and_states_are_asked_for_behind_the_right_steps(
    in_flight: int, first: int, eval_every: int, save_every: int
) -> None:
    trainer = RecordingTrainer(in_flight)
    found = taken(trainer, first=first, eval_every=eval_every, save_every=save_every)
    left = range(first + 1, 11)
    assert [step.metrics.step for step in found] == list(left)
    measured = [step for step in left if eval_every and (step % eval_every == 0 or step == 10)]
    saved = [step for step in left if save_every and step % save_every == 0]
    assert positions(found, "snapshot") == measured
    assert positions(found, "state") == saved
    for step in found:  # each is of the moment behind its own step
        if step.snapshot is not None:
            assert step.snapshot.result() == step.metrics.step - first
        if step.state is not None:
            assert step.state.result() == {"step": str(step.metrics.step).encode()}


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_step(
    in_flight: int, loss: float
) -> None:
    found = steps(RecordingTrainer(in_flight, {4: loss}), TEN_BATCHES, OBJECTIVE, TEN_STEPS)
    assert [next(found).metrics.step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(BakeError, match=rf"^step 4: the loss is {loss}; lower train\.lr"):
        next(found)


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("paid_for", [0, 1, 4])
def test_where_the_budget_is_reached_the_steps_in_flight_are_still_taken(
    in_flight: int, paid_for: int
) -> None:
    trainer, found = RecordingTrainer(in_flight, paid_for=paid_for), list[int]()
    with pytest.raises(BudgetError, match="max_dollars"):
        found.extend(
            step.metrics.step for step in steps(trainer, TEN_BATCHES, OBJECTIVE, TEN_STEPS)
        )
    assert found == list(range(1, paid_for + 1))
    assert len(trainer.rates) == paid_for  # no step is taken with a gradient that was not paid for


# A whole run, on a trainer that is paid for each step.

PRICE = Usage(calls=2, train_tokens=100, dollars=0.25)  # of a step
N_STEPS = 6
SETTINGS = (
    "data.held_out=2",
    "data.max_tokens=6",
    "train.backend=priced",
    "train.batch_size=2",
    "train.epochs=2",
    "train.rank=2",
    "train.eval_every=2",
    "train.save_every=4",
)


class Lazy(Generic[T]):
    """Does what was asked for, after all that was asked for before it, when it is waited for."""

    def __init__(self, queue: list[Lazy[Any]], do: Callable[[], T]) -> None:
        self._queue, self._do, self._found = queue, do, list[T]()
        queue.append(self)

    def result(self) -> T:
        """The value."""
        while not self._found:
            self._queue.pop(0).work()
        return self._found[0]

    def work(self) -> None:
        """Do it."""
        self._found.append(self._do())


class PricedTrainer:
    """The tiny model's trainer with two steps in flight, and a bill for each of them."""

    steps_in_flight = 2

    def __init__(self, inner: Trainer, budget: Budget) -> None:
        self._inner, self._budget = inner, budget
        self._queue: list[Lazy[Any]] = []

    def preflight(self, *, k: int, draws: int) -> Sequence[str]:
        """Nothing to find out."""
        return self._inner.preflight(k=k, draws=draws)

    def snapshot(self) -> Pending[Model]:
        """The student."""
        return Lazy(self._queue, self._inner.snapshot().result)

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """A gradient, which is paid for."""
        reservation = self._budget.reserve("train", PRICE)
        return Lazy(self._queue, lambda: self._paid(batch, objective, reservation))

    def optim_step(self, lr: float) -> Pending[None]:
        """A step."""
        return Lazy(self._queue, lambda: self._inner.optim_step(lr).result())

    def save_state(self, step: int) -> Pending[TrainingState]:
        """The state."""
        return Lazy(self._queue, lambda: self._inner.save_state(step).result())

    def load_state(self, folder: Path) -> None:
        """Go on."""
        self._inner.load_state(folder)

    def save_adapter(self, folder: Path) -> Checkpoint:
        """The weights. Nothing may be under way any more."""
        assert not self._queue
        return self._inner.save_adapter(folder)

    def _paid(
        self, batch: Sequence[Example], objective: Objective, reservation: Reservation
    ) -> float:
        loss = self._inner.forward_backward(batch, objective).result()
        reservation.commit(PRICE)
        return loss


class PricedBackend:
    """The tiny model, and a bill for each step of training."""

    name = "priced"

    def __init__(self) -> None:
        self._tiny = tiny_backend()
        self._budget: Budget | None = None

    def open_model(self, name: str, budget: Budget) -> Model:
        """The tiny model."""
        self._budget = budget
        return self._tiny.open_model(NAME)

    def new_lora(self, base: Model, **how: Any) -> Trainer:
        """A LoRA whose steps are reserved in the budget."""
        assert self._budget is not None
        return PricedTrainer(self._tiny.new_lora(base, **how), self._budget)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(
        (*load().factories, PluginFactory("backends", "priced", "test", "1", PricedBackend))
    )


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    file = tmp_path / "queries.txt"
    file.write_text("\n".join(f"What is {number}?" for number in range(8)))
    return file


def session(registry: Registry, folder: Path, queries: Path, *settings: str) -> Session:
    resolved = resolve("mock", settings=(f"data.queries={queries}", *SETTINGS, *settings))
    prompt = Prompt("yoda", "Speak like Yoda.")
    targets = (BakeTarget("", prompt),)
    return Session(prompt, targets, resolved, Run(folder), registry, SilentReporter())


def curve(run: Run) -> list[dict[str, Any]]:
    """The metrics, without the time that each step took."""
    return [line | {"seconds": None} for line in read_json_lines(run.metrics)]


def test_a_bake_that_its_budget_stops_goes_on_when_the_cap_is_raised_and_pays_no_step_twice(
    registry: Registry, queries: Path, tmp_path: Path
) -> None:
    def baked(folder: Path, *settings: str) -> Run:
        opened = session(registry, folder, queries, *settings)
        for name, stage in (("data", data), ("bake", bake)):
            with opened.stage_lock(name):
                stage.run(opened)
        return opened.run

    uncapped = baked(tmp_path / "uncapped")
    assert [line["step"] for line in curve(uncapped)] == list(range(N_STEPS + 1))

    run = Run(tmp_path / "capped")
    for dollars, step in ((0.2, None), (0.8, 3), (0.99, 3), (1.3, 5)):
        with pytest.raises(BudgetError, match=rf"max_dollars = {dollars}: .* the next train may"):
            baked(run.path, f"budget.max_dollars={dollars}")
        states = [path.name for path in run.path.glob("checkpoints/*")]
        assert states == ([f"step-{step:06}"] if step else [])
        assert Ledger(run.costs, None).dollars == (step or 0) * PRICE.dollars
        assert [line["step"] for line in curve(run)] == list(range((step or 0) + 1))
        assert not run.adapter.exists()

    baked(run.path, "budget.max_dollars=1.5")
    names = sorted(path.name for path in uncapped.adapter.iterdir())
    assert names == sorted(path.name for path in run.adapter.iterdir())
    for name in names:
        assert (run.adapter / name).read_bytes() == (uncapped.adapter / name).read_bytes()
    assert curve(run) == curve(uncapped)
    for each in (run, uncapped):
        every_step = sum((PRICE for _ in range(N_STEPS)), Usage())
        assert Ledger(each.costs, None).by_work() == {"bake: train": every_step}
        assert all(committed(each))


def committed(run: Run) -> list[bool]:
    """Whether each piece of work was committed in the end."""
    lines = {line["id"]: line["committed"] for line in read_json_lines(run.costs)}
    return list(lines.values())
