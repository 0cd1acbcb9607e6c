"""What the SDK submits and polls for: executed once, in order, by one thread."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from promptbake_loopback.errors import HttpError, UserError
from promptbake_loopback.faults import FaultQueue
from promptbake_loopback.tinker.faults import FAILING, INCOMPLETE
from promptbake_loopback.tinker.meter import MeterCounter

KEPT = 512  # results that have been fetched, and can be fetched again
JSON, PROTOBUF = "application/json", "application/x-protobuf"
HARMLESS = frozenset({"save_weights", "save_weights_for_sampler", "save_weights_external"})
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of an operation, protobuf or JSON, and its amounts on the Meter."""

    result: bytes | Mapping[str, Any]
    amounts: Mapping[str, int] = field(default_factory=dict)


# Takes the kind of the fault that makes the result incomplete, or None. Raises UserError.
Work = Callable[[str | None], Outcome]


class Sequencer:
    """Puts the operations of one training model into the order of their numbers.

    Once one has failed, every later one fails, too: the weights are no longer what the client
    believes them to be, and it has to resume from a checkpoint. Only a save that is refused (its
    name is taken, say) leaves the model as it was.
    """

    def __init__(self) -> None:
        self.next = 1
        self.waiting: dict[int, Operation] = {}
        self.broken = False


class Operation:
    """Something that was accepted, and its response once `done`."""

    def __init__(
        self, request_id: str, name: str, work: Work, sequencer: Sequencer | None, fault: str | None
    ) -> None:
        self.request_id, self.name = request_id, name
        self.work: Work | None = work
        self.sequencer, self.fault = sequencer, fault
        self.done: Future[None] = Future()
        self.done.set_running_or_notify_cancel()  # a client that waits for it cannot cancel it
        self.media_type = JSON
        self.body: bytes | None = None
        self.fetched = False

    def finish(self, result: bytes | Mapping[str, Any]) -> None:
        """Publish the response."""
        if isinstance(result, bytes):
            self.media_type, self.body = PROTOBUF, result
        else:
            self.body = json.dumps(result).encode()
        self.work = None  # with its request's data
        self.done.set_result(None)

    def fail(self, error: str, category: str) -> None:
        """Publish a failure."""
        self.finish({"error": error, "category": category})


class Operations:
    """All that was ever submitted, by request id. Only `_execute` runs outside the HTTP thread."""

    def __init__(self, counter: MeterCounter, faults: FaultQueue) -> None:
        self._counter, self.faults = counter, faults
        self._known: dict[str, Operation] = {}
        self._fetched: deque[Operation] = deque()
        self._executor = ThreadPoolExecutor(1, "tinker-loopback")

    def close(self) -> None:
        """Finish what is being executed, and end."""
        self._executor.shutdown(cancel_futures=True)

    def submit(
        self,
        request_id: str,
        name: str,
        work: Work,
        sequencer: Sequencer | None = None,
        number: int = 0,
    ) -> None:
        """Accept an operation, unless its request id is known: then this is a repeat."""
        if request_id not in self._known:
            if sequencer is not None and number < sequencer.next:
                raise HttpError(400, f"seq_id {number}: expected {sequencer.next} or more")
            fault = self.faults.take(FAILING | INCOMPLETE, name)
            kind = None if fault is None else fault.kind
            operation = Operation(request_id, name, work, sequencer, kind)
            self._known[request_id] = operation
            if sequencer is None:
                self._executor.submit(self._execute, operation)
            else:
                sequencer.waiting[number] = operation
                while sequencer.next in sequencer.waiting:
                    self._executor.submit(self._execute, sequencer.waiting.pop(sequencer.next))
                    sequencer.next += 1

    def find(self, request_id: str) -> Operation:
        """An operation by its request id. Raises HttpError 410."""
        operation = self._known.get(request_id)
        if operation is None or (operation.done.done() and operation.body is None):
            raise HttpError(410, f"{request_id}: no such request, or its result is no longer kept")
        return operation

    def mark_fetched(self, operation: Operation) -> None:
        """Its result has been sent: keep it for a while."""
        if not operation.fetched:
            operation.fetched = True
            self._fetched.append(operation)
            while len(self._fetched) > KEPT:
                self._fetched.popleft().body = None

    def _execute(self, operation: Operation) -> None:
        sequencer, fault = operation.sequencer, operation.fault
        if sequencer is not None and sequencer.broken:
            operation.fail("an earlier operation of this model failed", "server")
            return
        error, category = "ordered to fail", "user" if fault == "failed_user" else "server"
        try:
            if fault not in FAILING:
                assert operation.work is not None
                outcome = operation.work(fault)
                self._counter.count_executed(operation.request_id, outcome.amounts)
                operation.finish(outcome.result)
                return
        except UserError as problem:
            error, category = str(problem), "user"
        except Exception as problem:
            log.exception("%s failed", operation.request_id)
            error = f"{type(problem).__name__}: {problem}"
        if sequencer is not None and operation.name not in HARMLESS:
            sequencer.broken = True
        operation.fail(error, category)
