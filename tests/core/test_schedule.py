"""The order of the examples and the learning rate follow from the step alone, seeds from names."""

from __future__ import annotations

import math
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbake.distill.schedule import Schedule
from promptbake.seeds import derive

schedules = st.builds(
    Schedule,
    n_examples=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    epochs=st.integers(1, 4),
    lr=st.floats(1e-6, 1.0),
    seed=st.integers(0, 100),
)


@given(schedules)
def test_an_epoch_sees_each_example_once(schedule: Schedule) -> None:
    steps = range(schedule.steps)
    for epoch in range(schedule.epochs):
        batches = [schedule.batch(step) for step in steps if schedule.epoch(step) == epoch]
        assert len(batches) == schedule.steps_per_epoch
        assert sorted(chain.from_iterable(batches)) == list(range(schedule.n_examples))


@given(schedules)
def test_only_an_epochs_last_batch_may_be_smaller(schedule: Schedule) -> None:
    for step in range(schedule.steps):
        last = (step + 1) % schedule.steps_per_epoch == 0
        size = len(schedule.batch(step))
        assert 0 < size <= schedule.batch_size
        assert last or size == schedule.batch_size


@given(schedules)
def test_the_learning_rate_falls_in_equal_steps_to_zero(schedule: Schedule) -> None:
    rates = [schedule.learning_rate(step) for step in range(schedule.steps + 1)]
    assert rates[0] == schedule.lr
    assert rates[-1] == 0
    for before, after in pairwise(rates):
        assert math.isclose(before - after, schedule.lr / schedule.steps, rel_tol=1e-6)


@given(schedules, st.data())
def test_a_step_sees_the_same_whatever_came_before(schedule: Schedule, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, schedule.steps - 1))
    again = Schedule(**vars(schedule))
    assert [again.batch(i) for i in range(schedule.steps)][step] == schedule.batch(step)


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    one, other = (Schedule(50, 50, 2, 1.0, seed) for seed in (0, 1))
    orders = [one.batch(0), one.batch(1), other.batch(0), other.batch(1), list(range(50))]
    assert len({tuple(order) for order in orders}) == 5


@pytest.mark.parametrize(
    ("n_examples", "batch_size", "epochs", "steps"), [(120, 4, 2, 60), (10, 4, 3, 9), (3, 16, 1, 1)]
)
def test_the_number_of_steps(n_examples: int, batch_size: int, epochs: int, steps: int) -> None:
    assert Schedule(n_examples, batch_size, epochs, 1.0, 0).steps == steps


parts = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), max_size=3
)


@given(st.integers(0, 2**40), parts)
def test_a_seed_is_of_63_bits_and_the_same_each_time(seed: int, names: list[str]) -> None:
    assert 0 <= derive(seed, *names) < 2**63
    assert derive(seed, *names) == derive(seed, *names)


@given(st.integers(0, 3), parts, st.integers(0, 3), parts)
def test_other_names_or_another_seed_give_another_seed(
    seed: int, names: list[str], other_seed: int, others: list[str]
) -> None:
    same = (seed, names) == (other_seed, others)
    assert (derive(seed, *names) == derive(other_seed, *others)) == same


def test_a_seed_never_changes_between_releases() -> None:
    assert derive(0, "response", "science-1@0.7") == 8385474096544804992


def test_numbers_stand_for_their_digits() -> None:
    assert derive(1, 2) == derive(1, "2")
