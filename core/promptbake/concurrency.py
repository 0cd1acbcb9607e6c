"""Many calls in flight at a time: for plugins that wait for a service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from promptbake.errors import BakeError, BudgetError

SLICE = 0.5  # seconds between two calls of `alive`
A = TypeVar("A")
T = TypeVar("T")


def run_in_thread(work: Callable[[], T]) -> Future[T]:
    """Run work in a daemon thread, which the end of the process need not wait for."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def gather(
    calls: int,
    submit: Callable[[int], Future[A]],
    read: Callable[[int, A], T],
    failed: Callable[[int, BaseException], Exception | None],
    late: Callable[[int], Exception],
    *,
    limit: int | Callable[[], int],
    deadline: float | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, T]]:
    """Make `calls` calls, at most `limit` in flight, and yield what is read from each answer.

    The calls that are in flight when one fails for good are waited for first, so that what was
    paid for is kept.

    Args:
        calls: How many there are, numbered from 0.
        submit: Sends one. Where it raises BudgetError, it is called again once another call has
            ended.
        read: Turns an answer into a value; a BakeError of it ends the work.
        failed: Is given each failure: returns None to send the call again, or the error that ends
            the work.
        late: Gives the error for a call without an answer within the deadline.
        limit: The most calls in flight; a function is asked before each call.
        deadline: Seconds without any answer after which the work ends; None for no end.
        alive: Called now and then; raises where there is no use in waiting.

    Returns:
        Pairs of a call's number and its value, in the order of the answers.
    """
    waiting, in_flight = list(range(calls))[::-1], dict[Future[A], int]()
    failure: Exception | None = None
    most = limit if callable(limit) else lambda: limit
    while in_flight or (waiting and failure is None):
        while waiting and failure is None and len(in_flight) < most():
            index = waiting.pop()
            try:
                in_flight[submit(index)] = index
            except BudgetError as error:
                if not in_flight:
                    failure = error
                waiting.append(index)  # the others may cost less than was reserved
                break
            except Exception as error:
                failure = error
        done = _first(in_flight, deadline, alive)
        if in_flight and not done:
            raise failure or late(next(iter(in_flight.values())))
        for future in done:
            index, problem = in_flight.pop(future), future.exception()
            if problem is not None:
                ends = failed(index, problem)
                failure = failure or ends
                if ends is None:
                    waiting.append(index)
                continue
            try:
                value = read(index, future.result())
            except BakeError as error:
                failure = failure or error
                continue
            yield index, value
    if failure is not None:
        raise failure


def _first(
    in_flight: Mapping[Future[A], int], deadline: float | None, alive: Callable[[], None]
) -> set[Future[A]]:
    """The calls that have ended, when one has; none where the deadline came first."""
    until = None if deadline is None else time.monotonic() + deadline
    while in_flight:
        done, _ = wait(in_flight, timeout=SLICE, return_when=FIRST_COMPLETED)
        if done or (until is not None and time.monotonic() >= until):
            return done
        alive()
    return set()
