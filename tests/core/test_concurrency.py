"""Many calls in flight: what was paid for is kept, whatever becomes of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from promptbake.concurrency import gather, run_in_thread
from promptbake.errors import BakeError, BudgetError


class Calls:
    """Calls that end when the test says so; it counts how many are in flight."""

    def __init__(self) -> None:
        self.in_flight: dict[int, Future[int]] = {}
        self.most = 0
        self.submitted: list[int] = []

    def submit(self, index: int) -> Future[int]:
        future: Future[int] = Future()
        self.in_flight[index] = future
        self.submitted.append(index)
        self.most = max(self.most, len(self.in_flight))
        return future

    def end(self, index: int, error: Exception | None = None) -> None:
        settle(self.in_flight.pop(index), index, error)


def settle(future: Future[int], index: int, error: Exception | None) -> None:
    if error is None:
        future.set_result(index)
    else:
        future.set_exception(error)


def ends(_: int, problem: BaseException) -> Exception:
    return BakeError(str(problem))


def late(index: int) -> Exception:
    return BakeError(f"call {index} is late")


def at_once(error: Callable[[int], Exception | None]) -> Callable[[int], Future[int]]:
    def submit(index: int) -> Future[int]:
        future: Future[int] = Future()
        settle(future, index, error(index))
        return future

    return submit


def kept_until(results: Iterator[tuple[int, int]], problem: str) -> list[int]:
    """The calls whose results came before the work ended with a problem."""
    kept: list[int] = []
    with pytest.raises(BakeError, match=problem):
        kept.extend(index for index, _ in results)
    return sorted(kept)


def test_as_many_as_allowed_are_in_flight_and_results_come_as_they_end() -> None:
    calls = Calls()
    results = gather(5, calls.submit, lambda _, x: x, ends, late, limit=2)
    order = []
    for wanted in (1, 0, 3, 2, 4):
        thread = threading.Timer(0.05, lambda index=wanted: calls.end(index))
        thread.start()
        order.append(next(results))
        thread.join()
    assert order == [(index, index) for index in (1, 0, 3, 2, 4)]
    assert calls.most == 2
    assert list(results) == []


def test_a_failure_ends_the_work_after_those_in_flight() -> None:
    submit = at_once(lambda index: ValueError("broken") if index == 1 else None)
    results = gather(9, submit, lambda _, x: x, ends, late, limit=3)
    assert kept_until(results, "broken") == [0, 2]


def test_a_call_may_be_repeated() -> None:
    failures = {1: 2, 3: 1}

    def error(index: int) -> Exception | None:
        failures[index] = failures.get(index, 0) - 1
        return ConnectionError() if failures[index] >= 0 else None

    results = gather(5, at_once(error), lambda _, x: x, lambda *_: None, late, limit=2)
    assert sorted(results) == [(index, index) for index in range(5)]


def test_an_answer_that_cannot_be_read_loses_no_other() -> None:
    unread: list[int] = []  # the first that is read, since their order is not given

    def read(index: int, answer: int) -> int:
        if not unread:
            unread.append(index)
            raise BakeError("misshapen")
        return answer

    results = gather(4, at_once(lambda _: None), read, ends, late, limit=4)
    assert kept_until(results, "misshapen") == [n for n in range(4) if n not in unread]


def test_money_that_is_reserved_may_turn_out_to_be_enough() -> None:
    """Three calls reserve 2 each and come to 1 each: with a cap of 4 they fit one after another."""
    spent = {"reserved": 0, "committed": 0}

    def submit(index: int) -> Future[int]:
        if spent["reserved"] + spent["committed"] + 2 > 4:
            raise BudgetError("the cap")
        spent["reserved"] += 2
        return run_in_thread(lambda: time.sleep(0.01) or index)

    def read(index: int, _: int) -> int:
        spent["reserved"] -= 2
        spent["committed"] += 1
        return index

    assert len(list(gather(3, submit, read, ends, late, limit=3))) == 3
    with pytest.raises(BudgetError, match="the cap"):
        list(gather(3, submit, read, ends, late, limit=3))


def test_a_call_that_does_not_end_is_late_and_one_without_use_is_left() -> None:
    calls = Calls()
    with pytest.raises(BakeError, match="call 0 is late"):
        list(gather(2, calls.submit, lambda _, x: x, ends, late, limit=2, deadline=0.1))

    def dead() -> None:
        raise BakeError("nobody is there")

    with pytest.raises(BakeError, match="nobody is there"):
        list(gather(2, calls.submit, lambda _, x: x, ends, late, limit=2, alive=dead))


def test_a_started_work_gives_its_value_or_its_error() -> None:
    assert run_in_thread(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        run_in_thread(lambda: 1 / 0).result()
