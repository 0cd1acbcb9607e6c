"""Many calls under way at a time: for plugins whose work is waiting for somebody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from promptbake.errors import BakeError, BudgetError

SLICE = 0.5  # seconds between two looks at whether there is use in waiting
A = TypeVar("A")
T = TypeVar("T")


def run_in_thread(work: Callable[[], T]) -> Future[T]:
    """Work in a thread that nobody has to wait for, not even the end of the process."""
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
    limit: int,
    deadline: float | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, T]]:
    """What is read from the answers to `calls` calls, as they come, at most `limit` under way.

    Where `submit` raises BudgetError, it is asked again when another call has ended. `failed` is
    told of each failure: it returns None for a call that is to be made again, or the error that
    ends the work; so does a BakeError of `read`. The calls that are then under way are waited for
    first, so that what was paid for is kept. Where none ends within `deadline` seconds, `late`
    gives the error, for the call that was made first; `alive` is asked now and then, and raises
    where there is no use in waiting.
    """
    waiting, under_way = list(range(calls))[::-1], dict[Future[A], int]()
    failure: Exception | None = None
    while under_way or (waiting and failure is None):
        while waiting and failure is None and len(under_way) < limit:
            index = waiting.pop()
            try:
                under_way[submit(index)] = index
            except BudgetError as error:
                if not under_way:
                    failure = error
                waiting.append(index)  # what is held back for the others may turn out to be less
                break
            except Exception as error:
                failure = error
        done = _first(under_way, deadline, alive)
        if under_way and not done:
            raise failure or late(next(iter(under_way.values())))
        for future in done:
            index, problem = under_way.pop(future), future.exception()
            if problem is not None:
                ends = failed(index, problem)
                failure = failure or ends
                if ends is None:
                    waiting.append(index)
                continue
            try:
                found = read(index, future.result())
            except BakeError as error:
                failure = failure or error
                continue
            yield index, found
    if failure is not None:
        raise failure


def _first(
    under_way: Mapping[Future[A], int], deadline: float | None, alive: Callable[[], None]
) -> set[Future[A]]:
    """The calls that have ended, when one has; none where the deadline came first."""
    until = None if deadline is None else time.monotonic() + deadline
    while under_way:
        done, _ = wait(under_way, timeout=SLICE, return_when=FIRST_COMPLETED)
        if done or (until is not None and time.monotonic() >= until):
            return done
        alive()
    return set()
