"""What the SDK submits and polls for: executed once, in order, by one thread."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from promptbake_tinker.loopback.errors import HttpError, UserError
from promptbake_tinker.loopback.faults import FAILING, SPOILING, Faults
from promptbake_tinker.loopback.messages import JSON, PROTOBUF
from promptbake_tinker.loopback.meter import Tally

KEPT = 512  # results that have been fetched, and can be fetched again
HARMLESS = frozenset({"save_weights", "save_weights_for_sampler", "save_weights_external"})
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What an operation came to, and what it amounts to on the Meter."""

    result: bytes | Mapping[str, Any]
    amounts: Mapping[str, int] = field(default_factory=dict)


# Takes the kind of the fault that spoils the result, or None. Raises UserError.
Work = Callable[[str | None], Outcome]


class Lane:
    """One training model's operations, executed in the order of their numbers.

    Once one has failed, every later one fails, too: the weights are no longer what the client
    believes them to be, and it has to go on from a checkpoint. Only a save that is refused (its
    name is taken, say) leaves the model as it was.
    """

    def __init__(self) -> None:
        self.next = 1
        self.waiting: dict[int, Operation] = {}
        self.broken = False


class Operation:
    """Something that was accepted, and its answer once there is one."""

    def __init__(self, key: str, name: str, work: Work, lane: Lane | None) -> None:
        self.key = key
        self.name = name
        self.work = work
        self.lane = lane
        self.fault: str | None = None
        self.done = Event()
        self.content_type = JSON
        self.body: bytes | None = None
        self.fetched = False

    def finish(self, result: bytes | Mapping[str, Any]) -> None:
        """Publish the answer."""
        if isinstance(result, bytes):
            self.content_type, self.body = PROTOBUF, result
        else:
            self.body = json.dumps(result).encode()
        self.done.set()


class Operations:
    """All that was ever submitted, by request id."""

    def __init__(self, tally: Tally, faults: Faults) -> None:
        self._tally = tally
        self._faults = faults
        self._lock = Lock()
        self._known: dict[str, Operation] = {}
        self._fetched: deque[Operation] = deque()
        self._queue: SimpleQueue[Operation | None] = SimpleQueue()
        self._closing = False
        self._thread = Thread(target=self._run, name="loopback-worker", daemon=True)

    def start(self) -> None:
        """Begin to execute."""
        self._thread.start()

    def close(self) -> None:
        """Finish what is being executed, and end."""
        self._closing = True
        self._queue.put(None)
        self._thread.join()

    def submit(
        self, key: str, name: str, work: Work, lane: Lane | None = None, number: int = 0
    ) -> None:
        """Accept an operation, unless it is known by its key: then this was a repeat."""
        with self._lock:
            if key in self._known:
                return
            if lane is not None and number < lane.next:
                raise HttpError(400, f"seq_id {number}: expected {lane.next} or more")
            operation = self._known[key] = Operation(key, name, work, lane)
            if fault := self._faults.take(FAILING | SPOILING, name):
                operation.fault = fault.kind
            if lane is None:
                self._queue.put(operation)
                return
            lane.waiting[number] = operation
            while lane.next in lane.waiting:
                self._queue.put(lane.waiting.pop(lane.next))
                lane.next += 1

    def find(self, key: str) -> Operation:
        """An operation by its request id."""
        with self._lock:
            found = self._known.get(key)
        if found is None or (found.done.is_set() and found.body is None):
            raise HttpError(410, f"{key}: no such request, or its result is no longer kept")
        return found

    def fetched(self, operation: Operation) -> None:
        """Its result has been sent: keep it for a while."""
        with self._lock:
            if operation.fetched:
                return
            operation.fetched = True
            self._fetched.append(operation)
            while len(self._fetched) > KEPT:
                self._fetched.popleft().body = None

    def _run(self) -> None:
        while (operation := self._queue.get()) is not None and not self._closing:
            self._execute(operation)
            operation.work = _gone  # with its request's data

    def _execute(self, operation: Operation) -> None:
        lane, fault = operation.lane, operation.fault
        if lane is not None and lane.broken:
            _fail(operation, "an earlier operation of this model failed", "server")
            return
        try:
            if fault in FAILING:
                _fail(operation, "ordered to fail", "user" if fault == "failed_user" else "server")
            else:
                outcome = operation.work(fault)
                self._tally.executed(operation.key, outcome.amounts)
                operation.finish(outcome.result)
                return
        except UserError as error:
            _fail(operation, str(error), "user")
        except Exception as error:
            log.exception("%s failed", operation.key)
            _fail(operation, f"{type(error).__name__}: {error}", "server")
        if lane is not None and operation.name not in HARMLESS:
            lane.broken = True


def _fail(operation: Operation, error: str, category: str) -> None:
    operation.finish({"error": error, "category": category})


def _gone(_: str | None) -> Outcome:
    raise AssertionError("an operation is executed once")
