"""Stage 2: minimise the KL from the prompted teacher to the unprompted LoRA student.

    L = mean over response positions t of KL( P_theta(. | y<t, u, x) || P_theta_u(. | y<t, x) )

Prompt Baking, arXiv 2409.13697, Eq. 3.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from promptbake.dataset.alignment import align_all, check_room
from promptbake.distill import checkpoints
from promptbake.distill.checkpoints import CHECKPOINT
from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.distill.loop import steps
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.distill.target_store import ask_teacher, yardstick
from promptbake.errors import BakeError, BudgetError
from promptbake.files import atomic_folder, digest_file, write_json
from promptbake.interfaces import Model, Objective, Pending, Tracker, Trainer, TrainingState
from promptbake.runs.session import Session
from promptbake.stages import data
from promptbake.types import Example, StepMetrics


def run(session: Session) -> None:
    """Train the adapter on the run's data, or go on where an earlier run was cut short."""
    config, folder, base = session.config, session.run, session.base
    dataset = data.load(session)
    check_room(session.prompt, base, config.data.max_tokens)
    inputs = _inputs(session)
    state, changed = folder.state("bake", inputs)
    if state == "done" and folder.adapter.exists():
        session.reporter.say(f"bake: {folder.adapter} is baked already")
        return
    started = time.monotonic()
    loss = session.make("losses", config.train.loss, "train.loss")
    objective = TailedLoss(loss, config.train.tail)
    training = align_all(dataset.training, session.prompt, base)
    held_out = align_all(dataset.held_out, session.prompt, base)

    student = session.backend.new_lora(
        base, rank=config.train.rank, seed=config.seed, datums=config.train.datums
    )
    names = dict.fromkeys(config.train.trackers)
    trackers: list[Tracker] = [session.make("trackers", name, "train.trackers") for name in names]
    first = 0 if state == "fresh" else checkpoints.restore(folder.checkpoints, student)
    _preflight(session, student, objective)
    if state == "fresh":  # what can be refused has been: the earlier adapter goes only now
        _clear(session, changed)
    folder.begin("bake", inputs, config.model_dump(mode="json"), session.plugins)
    schedule = Schedule(
        len(training), config.train.batch_size, config.train.epochs, config.train.lr, config.seed
    )
    with _following(
        session, trackers, first
    ):  # from here on: one may refuse, and the teacher costs
        examples = ask_teacher(session, objective, training)
        measure = yardstick(session, held_out)
        _train(session, student, examples, objective, schedule, measure, first, trackers)
        with atomic_folder(folder.adapter) as new:
            checkpoint = student.save_adapter(new)
            write_json(new / CHECKPOINT, vars(checkpoint))
    folder.finish("bake", time.monotonic() - started, steps=schedule.steps)


def _train(
    session: Session,
    student: Trainer,
    examples: Sequence[Example],
    objective: Objective,
    schedule: Schedule,
    measure: HeldOutKL,
    first: int,
    trackers: Sequence[Tracker],
) -> None:
    config = session.config.train

    def log(metrics: StepMetrics, snapshot: Pending[Model] | None) -> None:
        if snapshot is not None:
            metrics = replace(metrics, held_out_kl=_held_out_kl(session, measure, snapshot))
        for tracker in trackers:
            tracker.log(metrics)

    taken = saved = first
    with session.reporter.bar("bake", schedule.steps, first) as bar:
        if not first:
            log(StepMetrics(step=0, steps=schedule.steps, epoch=0), student.snapshot())
        every = config.eval_every, config.save_every
        try:
            for step in steps(student, examples, objective, schedule, first, *every):
                taken = step.metrics.step
                log(step.metrics, step.snapshot)
                if step.state is not None and _save(session, taken, step.state):
                    saved = taken
                bar.advance(note=f"{step.metrics.loss:.3f} nats/token")
        except BudgetError:  # nothing is under way any more: what was paid for is kept
            if taken > saved:
                _save(session, taken, student.save_state(taken))
            raise


@contextmanager
def _following(session: Session, trackers: Sequence[Tracker], first: int) -> Iterator[None]:
    """The trackers follow the run from step `first` on, until it has ended or was cut short."""
    with ExitStack() as ending:
        for tracker in trackers:
            tracker.start(session.run.path, session.config.model_dump(mode="json"), first)
            ending.callback(tracker.finish)
        yield


def _save(session: Session, step: int, state: Pending[TrainingState]) -> bool:
    """Keep a state to go on from; training does not end because one could not be had."""
    try:
        files = state.result()
    except BakeError as error:
        session.reporter.say(f"the state after step {step} is not kept: {error}")
        return False
    checkpoints.save(session.run.checkpoints, step, files)
    return True


def _preflight(session: Session, student: Trainer, objective: TailedLoss) -> None:
    config = session.config
    k = config.teacher.top_k if objective.asks_teacher else 0
    for line in student.preflight(k=k, draws=objective.draws(config.train.tail_draws)):
        session.reporter.say(f"train.backend = {config.train.backend}: {line}")


def _held_out_kl(session: Session, measure: HeldOutKL, snapshot: Pending[Model]) -> float | None:
    """Nats per response token; None where the budget has no room for it."""
    try:
        return measure.unprompted(snapshot.result()).per_token
    except BudgetError as reached:
        session.reporter.say(f"held-out KL not measured: {reached}")
        return None


def _clear(session: Session, changed: list[str]) -> None:
    folder = session.run
    if changed:
        session.reporter.say(f"bake: {', '.join(changed)} changed; baking anew")
    for path in (folder.checkpoints, folder.adapter):
        shutil.rmtree(path, ignore_errors=True)
    for file in (folder.metrics, folder.verify, folder.report):
        file.unlink(missing_ok=True)


def _inputs(session: Session) -> dict[str, object]:
    config = session.config
    train = config.train
    options = {
        kind: session.result_options(kind, name, key)
        for kind, name, key in (
            ("teachers", config.teacher.source, "teacher.source"),
            ("losses", train.loss, "train.loss"),
            ("backends", train.backend, "train.backend"),
        )
    }
    return {
        "data": session.run.stage("data")["inputs"],
        "conversations": digest_file(session.run.data),
        "model": session.base.digest,
        "seed": config.seed,
        "teacher": config.teacher.model_dump(mode="json"),
        "train": train.model_dump(mode="json", exclude={"save_every", "eval_every", "trackers"}),
        "options": options,
    }
