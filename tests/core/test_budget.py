"""What a run has spent is on disk, and the cap is never passed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbake.costs import NoBudget, Reservation, Usage
from promptbake.errors import BakeError, BudgetError
from promptbake.runs.ledger import Ledger

CAP = 100  # cents
reservations = st.tuples(st.just("reserve"), st.integers(0, 60))  # cents
SHARES = st.floats(0, 1, allow_subnormal=False)  # torch may have been told to flush them to 0
commits = st.tuples(st.just("commit"), st.integers(0, 9), SHARES)  # which, its share
kills = st.tuples(st.just("kill"))


OPEN: list[Ledger] = []


@pytest.fixture(autouse=True)
def every_ledger_is_closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    return tmp_path / "run" / "costs.jsonl"


def opened(costs: Path, max_dollars: float | None, stage: str = "bake") -> Ledger:
    """A run's ledger, as a stage at work has it."""
    ledger = Ledger(costs, max_dollars)
    ledger.stage = stage
    OPEN.append(ledger)
    return ledger


def dollars(amount: float) -> Usage:
    return Usage(calls=1, dollars=amount)


def lines(costs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in costs.read_text("utf-8").splitlines()]


@given(st.lists(st.one_of(reservations, commits, kills), max_size=25))
def test_whatever_is_reserved_and_committed_the_cap_is_not_passed(
    events: list[tuple[Any, ...]],
) -> None:
    with TemporaryDirectory() as folder:
        costs = Path(folder) / "costs.jsonl"
        ledger, pending = opened(costs, CAP / 100), list[tuple[Reservation, int]]()
        spent = 0.0  # cents, by a count of our own
        for kind, *arguments in events:
            if kind == "kill":
                ledger, pending = opened(costs, CAP / 100), []
            elif kind == "commit" and pending:
                index, share = arguments
                reservation, reserved = pending.pop(index % len(pending))
                reservation.commit(dollars(reserved * share / 100))
                spent -= reserved - reserved * share
            elif kind == "reserve":
                (reserved,) = arguments
                if spent + reserved > CAP + 1e-6:
                    with pytest.raises(BudgetError):
                        ledger.reserve("train", dollars(reserved / 100))
                else:
                    pending.append((ledger.reserve("train", dollars(reserved / 100)), reserved))
                    spent += reserved
            assert ledger.dollars == pytest.approx(spent / 100)
            assert ledger.dollars <= CAP / 100 + 1e-9
        assert opened(costs, None).dollars == pytest.approx(spent / 100)


def test_a_reservation_that_would_pass_the_cap_is_refused_and_not_recorded(costs: Path) -> None:
    ledger = opened(costs, 2.5)
    ledger.reserve("train", dollars(1.75)).commit(dollars(1.5))
    before = costs.read_bytes()
    message = r"^budget\.max_dollars = 2\.5: \$1\.5000 is spent, .* next top_k .* \$1\.2500"
    with pytest.raises(BudgetError, match=message):
        ledger.reserve("top_k", dollars(1.25))
    assert costs.read_bytes() == before
    assert ledger.dollars == opened(costs, 2.5).dollars == 1.5


def test_a_reservation_that_just_reaches_the_cap_is_granted(costs: Path) -> None:
    ledger = opened(costs, 0.3)
    for _ in range(3):
        ledger.reserve("train", dollars(0.1))  # three tenths are a little more than 0.3 in binary
    with pytest.raises(BudgetError):
        ledger.reserve("train", dollars(0.0001))
    ledger.reserve("train", dollars(0))  # what is free is not refused


def test_a_higher_cap_lets_it_go_on_and_a_lower_one_stops_it(costs: Path) -> None:
    opened(costs, 1.0).reserve("train", dollars(0.75))
    opened(costs, 2.0).reserve("train", dollars(1.0))
    with pytest.raises(BudgetError, match=r"\$1\.7500 is spent"):
        opened(costs, 1.5).reserve("train", dollars(0.01))
    assert [line["id"] for line in lines(costs)] == [0, 1]


def test_without_a_cap_everything_is_granted_and_recorded(costs: Path) -> None:
    ledger = opened(costs, None)
    assert (ledger.capped, opened(costs, 1.0).capped) == (False, True)
    ledger.reserve("train", dollars(1e6))
    assert opened(costs, None).dollars == 1e6


@pytest.mark.parametrize("committed", [False, True])
def test_a_truncated_last_line_is_survived(costs: Path, committed: bool) -> None:
    ledger = opened(costs, 5.0)
    ledger.reserve("train", dollars(1.0)).commit(dollars(0.5))
    last = ledger.reserve("train", dollars(2.0))
    whole = costs.read_bytes()
    if committed:
        last.commit(dollars(1.0))
    else:
        ledger.reserve("train", dollars(1.0))
    costs.write_bytes(costs.read_bytes()[:-9])

    again = opened(costs, 5.0)
    assert again.dollars == 2.5
    assert costs.read_bytes() != whole  # to look at it changes nothing
    again.reserve("top_k", dollars(0.25)).commit(dollars(0.125))
    assert costs.read_bytes().startswith(whole)
    assert [(line["id"], line["committed"]) for line in lines(costs)] == [
        (0, False),
        (0, True),
        (1, False),
        (2, False),
        (2, True),
    ]
    assert opened(costs, 5.0).dollars == 2.625


def test_a_line_says_what_was_reserved_or_used_and_leaves_out_zeros(costs: Path) -> None:
    ledger = opened(costs, None, "data")
    reserved = Usage(calls=1, input_tokens=90, output_tokens=24, dollars=0.5)
    ledger.reserve("sample", reserved).commit(
        Usage(calls=1, input_tokens=70, cached_input_tokens=20)
    )
    first, second = lines(costs)
    work = {"id": 0, "what": "data: sample", "calls": 1}
    used = {"input_tokens": 90, "output_tokens": 24, "dollars": 0.5}
    assert first == work | {"committed": False} | used
    assert second == work | {"committed": True, "input_tokens": 70, "cached_input_tokens": 20}


def test_each_kind_of_work_of_each_stage_has_a_total_of_its_own(costs: Path) -> None:
    ledger = opened(costs, None, "data")
    ledger.reserve("sample", Usage(1, input_tokens=9, dollars=9)).commit(
        Usage(1, input_tokens=5, dollars=1)
    )
    ledger.reserve("sample", Usage(1, input_tokens=7, dollars=2))
    ledger.stage = "bake"
    in_flight = ledger.reserve("train", Usage(2, train_tokens=30, dollars=4))
    ledger.stage = "verify"
    ledger.reserve("sample", Usage(1, output_tokens=3))
    in_flight.commit(Usage(2, train_tokens=20, dollars=3))  # still on the account of its own stage
    totals = {
        "data: sample": Usage(2, input_tokens=12, dollars=3),
        "bake: train": Usage(2, train_tokens=20, dollars=3),
        "verify: sample": Usage(1, output_tokens=3),
    }
    assert ledger.by_work() == totals
    assert opened(costs, None).by_work() == totals
    assert ledger.dollars == 6


def test_no_file_is_written_where_nothing_is_ever_held(costs: Path) -> None:
    ledger = opened(costs, 1.0)
    assert (ledger.dollars, ledger.by_work(), ledger.capped) == (0, {}, True)
    with pytest.raises(BudgetError):
        ledger.reserve("train", dollars(2))
    assert not costs.parent.exists()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("damaged", "is not JSON"),
        ("[]", "expected a JSON object"),
        *((f'{{"id": 1, "what": "a", "committed": true, "dollars": {dollars}}}', "dollars: ")
          for dollars in ("NaN", "-1", "1e999", '"1"')),
    ],
)  # fmt: skip
def test_a_damaged_ledger_is_named_and_not_taken_for_an_empty_one(
    costs: Path, line: str, problem: str
) -> None:
    costs.parent.mkdir()
    costs.write_text(f'{{"id": 0, "what": "bake: train", "committed": true}}\n{line}\n')
    with pytest.raises(BakeError, match=rf"costs\.jsonl:2: {problem}"):
        opened(costs, 1.0)


@pytest.mark.parametrize("dollars", [float("nan"), -1.0, float("inf")])
def test_a_usage_that_would_defeat_the_cap_is_none(dollars: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number of 0 or more"):
        Usage(calls=1, dollars=dollars)


def test_where_no_stage_is_at_work_nothing_is_held_and_nothing_recorded(costs: Path) -> None:
    ledger = opened(costs, 1.0, stage="")
    ledger.reserve("sample", dollars(5)).commit(dollars(4))
    assert (ledger.dollars, ledger.by_work()) == (0, {})
    assert not costs.parent.exists()


def test_outside_a_run_nothing_is_capped() -> None:
    budget = NoBudget()
    assert not budget.capped
    budget.reserve("train", dollars(1e9)).commit(dollars(1e9))


def test_what_a_new_run_pays_is_not_forgotten_after_the_old_one_was_archived(costs: Path) -> None:
    for _ in range(2):
        opened(costs, None).reserve("sample", dollars(1))
    ledger = opened(costs, None)  # it has read the old run's lines
    costs.parent.rename(costs.parent.with_name("run~1"))
    ledger.start_anew()
    assert ledger.dollars == 0
    ledger.reserve("sample", dollars(1))
    later = opened(costs, None)
    for _ in range(3):
        later.reserve("train", dollars(1))
    assert opened(costs, None).dollars == later.dollars == 4
