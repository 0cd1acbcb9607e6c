"""A contestant's clock, which stands still while the held-out set is measured, and its curve."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from local_bench.records import ENOUGH, Ended, Job, Outcome, Phase, PhaseName, Point, Task


class Clock:
    """Seconds since `start`, without those spent in `paused`."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._paused = 0.0

    def start(self, spent: float = 0.0) -> None:
        """From now on, with so many seconds spent already."""
        self._began = time.perf_counter() - spent

    @property
    def seconds(self) -> float:
        """On the clock now."""
        if self._began is None:
            raise RuntimeError("the clock has not been started")
        return time.perf_counter() - self._began - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside costs the contestant no time."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - began


class Recorder:
    """What a contestant reports: points of its curve, and how long each kind of work took.

    Args:
        job: The contestant's.
        task: What it works on.
        measure: The student's held-out KL as it stands, nats a token.
    """

    def __init__(self, job: Job, task: Task, measure: Callable[[], float]) -> None:
        self.clock = Clock()
        self._job, self._task, self._measure = job, task, measure
        self._points: list[Point] = []
        self._phases: dict[PhaseName, Phase] = {}
        self.base_kl = measure()

    def start(self, spent: float = 0.0) -> None:
        """Start the clock; the gap closed is 0 until something is trained."""
        self.clock.start(spent)
        self.add(Point(seconds=0.0, step=0, gap_closed=0.0))

    def begin_training(self) -> None:
        """Nothing is trained yet: the curve is flat up to here."""
        self.add(Point(seconds=self.clock.seconds, step=0, gap_closed=0.0))

    def measure(self, step: int) -> None:
        """Measure a point after `step` optimizer steps, off the clock."""
        seconds = self.clock.seconds
        with self.clock.paused():
            gap = 1.0 - self._measure() / self.base_kl
        self.add(Point(seconds=seconds, step=step, gap_closed=gap))

    def add(self, point: Point) -> None:
        """Add a point and print it."""
        self._points.append(point)
        print(point.model_dump_json(), file=sys.__stdout__, flush=True)

    @contextmanager
    def timed(self, phase: PhaseName, tokens: int = 0) -> Iterator[None]:
        """Count what happens inside as work of that kind on so many response tokens."""
        began = self.clock.seconds
        yield
        self.count(phase, tokens, self.clock.seconds - began)

    def count(
        self, phase: PhaseName, tokens: int, seconds: float, trained_share: float = 1.0
    ) -> None:
        """Add response tokens and seconds to a kind of work."""
        before = self._phases.get(phase, Phase())
        self._phases[phase] = Phase(
            tokens=before.tokens + tokens,
            seconds=before.seconds + seconds,
            flops=before.flops + tokens * self._task.flops(phase, trained_share),
        )

    @property
    def busy_seconds(self) -> float:
        """Of all kinds of work so far."""
        return sum(phase.seconds for phase in self._phases.values())

    @property
    def stop(self) -> Ended | None:
        """Why the contestant must end now, if it must."""
        if self._points[-1].gap_closed >= ENOUGH:
            return "enough"
        return "limit" if self.clock.seconds >= self._job.limit else None

    def outcome(self, seconds: float, ended: Ended) -> Outcome:
        """All of it."""
        job = self._job
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
        return Outcome(
            contestant=job.contestant,
            prompt=job.prompt,
            seed=job.seed,
            base_kl=self.base_kl,
            points=tuple(self._points),
            phases=self._phases,
            seconds=seconds,
            ended=ended,
            peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            limit=job.limit,
            held_out_digest=self._task.held_out_digest,
            settings=job.settings,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
