"""promptbake itself: the stages `data` and `bake`, timed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_bench.clock import Recorder
from local_bench.prepare import session_of
from local_bench.records import Job, Outcome, Point, Task
from promptbake.documents.typed import read_own_lines
from promptbake.errors import BakeError
from promptbake.files import digest_file
from promptbake.progress import Bar, Reporter, SilentReporter
from promptbake.runs.generation import load_dataset
from promptbake.runs.session import Session
from promptbake.stages import bake, data
from promptbake.types import StepMetrics

EVAL_EVERY = 3  # steps


class Marks(SilentReporter):
    """A reporter that reads the clock where a bar begins and where it ends."""

    def __init__(self) -> None:
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    @contextmanager
    def bar(self, what: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """No bar, but two marks."""
        self.began[what] = time.perf_counter()
        with super().bar(what, total, done) as bar:
            yield bar
        self.ended[what] = time.perf_counter()


@dataclass(frozen=True)
class Sampled:
    """A session whose data stage is done; its seconds, and the response tokens to train on."""

    session: Session
    seconds: float
    tokens: int


def sample(job: Job, task: Task, folder: Path, reporter: Reporter | None = None) -> Sampled:
    """Run the data stage in a fresh folder, where the held-out responses are there already."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(job.prepared, folder)
    (folder / "data.jsonl").unlink()  # the data stage generates what is missing
    session = session_of(job, folder, reporter, (f"train.eval_every={EVAL_EVERY}",))
    renderer = session.base.renderer  # the model is loaded before the clock starts
    began = time.perf_counter()
    with session.stage_lock("data"):
        data.run(session)
    seconds = time.perf_counter() - began
    if digest_file(session.run.held_out) != task.held_out_digest:
        raise BakeError(
            f"{job.shared}: its held-out set was sampled by other code; delete that folder"
        )
    responses = [
        renderer.response(each.response, each.complete) for each in load_dataset(session).training
    ]
    return Sampled(session, seconds, sum(map(len, responses)))


def run(job: Job, task: Task) -> Outcome:
    """Bake to the natural end of the schedule.

    The clock has the data stage without the held-out responses; of the bake what comes before
    training; and each step's own seconds, which leave out the curve.
    """
    marks = Marks()
    sampled = sample(job, task, job.shared / "ours", marks)
    began = time.perf_counter()
    with sampled.session.stage_lock("bake"):
        bake.run(sampled.session)
    before_training = marks.ended.get("teacher", marks.began["bake"]) - began
    return _outcome(job, task, sampled, before_training)


def _outcome(job: Job, task: Task, sampled: Sampled, before_training: float) -> Outcome:
    session = sampled.session
    lines = read_own_lines(StepMetrics, session.run.metrics)
    base_kl = lines[0].held_out_kl
    if base_kl is None:
        raise RuntimeError(f"{session.run.metrics}: has no held-out KL of step 0")
    recorder = Recorder(job, task, lambda: base_kl)
    recorder.count("sampling", sampled.tokens, sampled.seconds)
    recorder.count("teacher", sampled.tokens, before_training)
    seconds = sampled.seconds + before_training
    recorder.add(Point(seconds=0.0, step=0, gap_closed=0.0))
    recorder.add(Point(seconds=seconds, step=0, gap_closed=0.0))
    options = session.config.options_of(session.config.backend)
    trained = 1.0 - float(str(options.get("frozen_share", 0.0)))
    for line in lines[1:]:
        seconds += line.seconds or 0.0
        recorder.count("training", line.tokens or 0, line.seconds or 0.0, trained)
        if line.held_out_kl is not None:
            gap = 1.0 - line.held_out_kl / base_kl
            recorder.add(Point(seconds=seconds, step=line.step, gap_closed=gap))
    return recorder.outcome(seconds, "finished")
