"""The training loop: steps in flight, and a run that its budget stops and that goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metered import STEPS, Tariff, metered, write_prompt

from promptbake.distill.batches import StoredBatches
from promptbake.distill.loop import Step, steps
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.documents.typed import read_json_lines
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import Objective, Pending, TrainingState
from promptbake.runs.ledger import Ledger
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.stages import bake, data
from promptbake.types import Datum, Example, LossSupport
from promptbake_losses.divergences import ForwardKL

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
    """A result that is there only once it is waited for, which is recorded."""

    events: list[str]
    event: str
    value: T

    def result(self) -> T:
        self.events.append(f"wait {self.event}")
        return self.value


@dataclass
class RecordingTrainer:
    """A trainer that learns nothing and records what is requested of it, in order."""

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
        assert objective is OBJECTIVE
        if self.sent == self.paid_for:
            raise BudgetError("budget.max_dollars")
        self.batches.append(list(batch))
        return self._pending("gradient", self.losses.get(self.sent, 1.0))

    def optim_step(self, lr: float) -> Pending[None]:
        self.rates.append(lr)
        return self._pending("step", None)

    def snapshot(self) -> Pending[Any]:
        return self._pending("snapshot", self.sent)

    def save_state(self, step: int) -> Pending[TrainingState]:
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


def positions(done: Sequence[Step], what: str) -> list[int]:
    """The steps behind which something was requested."""
    return [step.metrics.step for step in done if getattr(step, what) is not None]


@pytest.mark.parametrize(
    ("in_flight", "numbered"),
    [
        (1, "send 1, wait 1, send 2, wait 2"),
        (2, "send 1, send 2, wait 1, wait 2"),  # the next is sent before the last is waited for
    ],
)
def test_each_step_is_sent_and_waited_for_in_order(in_flight: int, numbered: str) -> None:
    trainer = RecordingTrainer(in_flight)
    taken(trainer, Schedule(n_examples=6, batch_size=3, epochs=1, lr=1, seed=0), eval_every=1)
    parts = {"send": ("gradient", "step", "snapshot"), "wait": ("gradient", "step")}
    steps_in_order = [each.split() for each in numbered.split(", ")]
    assert trainer.events == [
        f"{verb} {part} {number}" for verb, number in steps_in_order for part in parts[verb]
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
    done = [step.metrics for step in taken(trainer)]
    assert [metrics.step for metrics in done] == list(range(1, 11))
    assert {metrics.step: metrics.loss for metrics in done} == losses
    assert [metrics.lr for metrics in done] == trainer.rates
    assert trainer.rates == [TEN_STEPS.learning_rate(step) for step in range(10)]
    assert [metrics.epoch for metrics in done] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {metrics.steps for metrics in done} == {10}
    assert all(metrics.seconds is not None and metrics.seconds >= 0 for metrics in done)
    for step, (batch, metrics) in enumerate(zip(trainer.batches, done, strict=True)):
        assert batch == [EXAMPLES[index] for index in TEN_STEPS.batch(step)]
        assert metrics.tokens == sum(example.datum.n_response for example in batch)


@given(
    in_flight=st.integers(1, 4),
    first=st.integers(0, 10),
    eval_every=st.integers(0, 11),
    save_every=st.integers(0, 11),
)
def test_snapshots_and_states_are_requested_behind_the_right_steps(
    in_flight: int, first: int, eval_every: int, save_every: int
) -> None:
    trainer = RecordingTrainer(in_flight)
    done = taken(trainer, first=first, eval_every=eval_every, save_every=save_every)
    left = range(first + 1, 11)
    assert [step.metrics.step for step in done] == list(left)
    measured = [step for step in left if eval_every and (step % eval_every == 0 or step == 10)]
    saved = [step for step in left if save_every and step % save_every == 0]
    assert positions(done, "snapshot") == measured
    assert positions(done, "state") == saved
    for step in done:  # each is of the moment behind its own step
        if step.snapshot is not None:
            assert step.snapshot.result() == step.metrics.step - first
        if step.state is not None:
            assert step.state.result() == {"step": str(step.metrics.step).encode()}


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_step(
    in_flight: int, loss: float
) -> None:
    done = steps(RecordingTrainer(in_flight, {4: loss}), TEN_BATCHES, OBJECTIVE, TEN_STEPS)
    assert [next(done).metrics.step for _ in range(3)] == [1, 2, 3]
    with pytest.raises(BakeError, match=rf"^step 4: the loss is {loss}; lower train\.lr"):
        next(done)


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("paid_for", [0, 1, 4])
def test_where_the_budget_is_reached_the_steps_in_flight_are_still_taken(
    in_flight: int, paid_for: int
) -> None:
    trainer, done = RecordingTrainer(in_flight, paid_for=paid_for), list[int]()
    with pytest.raises(BudgetError, match="max_dollars"):
        done.extend(step.metrics.step for step in steps(trainer, TEN_BATCHES, OBJECTIVE, TEN_STEPS))
    assert done == list(range(1, paid_for + 1))
    assert len(trainer.rates) == paid_for  # no step is taken with a gradient that was not paid for


# A whole run, on a service that bills each step.

PRICE = 0.25  # dollars a step


def curve(run: Run) -> list[dict[str, Any]]:
    """The metrics, without the time that each step took."""
    return [line | {"seconds": None} for line in read_json_lines(run.metrics)]


def test_a_bake_that_its_budget_stops_resumes_when_the_cap_is_raised_and_pays_no_step_twice(
    tmp_path: Path,
) -> None:
    prompt = write_prompt(tmp_path)

    def baked(name: str, *settings: str) -> Session:
        every = ("train.eval_every=2", "train.save_every=4")
        session = metered(prompt, Tariff(step=PRICE), *every, *settings, run=name)
        for stage in (data, bake):
            with session.stage_lock(stage.__name__.rpartition(".")[2]):
                stage.run(session)
        return session

    uncapped = baked("uncapped")
    assert [line["step"] for line in curve(uncapped.run)] == list(range(STEPS + 1))

    run = Run(tmp_path / "capped")
    for dollars, step in ((0.2, None), (0.8, 3), (0.99, 3), (1.3, 5)):
        with pytest.raises(BudgetError, match=rf"max_dollars = {dollars}: .* the next train may"):
            baked("capped", f"budget.max_dollars={dollars}")
        states = [path.name for path in run.path.glob("checkpoints/*")]
        assert states == ([f"step-{step:06}"] if step else [])
        assert Ledger(run.costs, None).dollars == (step or 0) * PRICE
        assert [line["step"] for line in curve(run)] == list(range((step or 0) + 1))
        assert not run.adapter.exists()

    capped = baked("capped", "budget.max_dollars=1.5")
    names = sorted(path.name for path in uncapped.run.adapter.iterdir())
    assert names == sorted(path.name for path in run.adapter.iterdir())
    for name in names:
        assert (run.adapter / name).read_bytes() == (uncapped.run.adapter / name).read_bytes()
    assert curve(run) == curve(uncapped.run)
    spent, reference = capped.budget.by_work(), uncapped.budget.by_work()
    assert spent["bake: train"].calls == STEPS
    assert spent["bake: train"].dollars == STEPS * PRICE
    for work in ("data: sample", "bake: top_k", "bake: train"):
        assert spent[work] == reference[work]
    lines = {line["id"]: line["committed"] for line in read_json_lines(run.costs)}
    assert all(lines.values())
