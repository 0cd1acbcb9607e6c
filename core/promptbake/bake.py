"""Stage 2: minimise the KL from the prompted teacher to the unprompted LoRA student.

    L = mean over response positions t of KL( P_theta(. | y<t, u, x) || P_theta_u(. | y<t, x) )

Prompt Baking, arXiv 2409.13697, Eq. 3.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from promptbake import checkpoints, data
from promptbake.checkpoints import CHECKPOINT
from promptbake.datums import align_all, check_room
from promptbake.divergence import Yardstick
from promptbake.errors import BakeError
from promptbake.files import atomic_folder, digest_file, write_json
from promptbake.interfaces import Objective, Tracker, Trainer
from promptbake.objective import TailedLoss
from promptbake.schedule import Schedule
from promptbake.session import Session
from promptbake.targets import ask_teacher
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

    if state == "fresh":  # what can be refused has been: the earlier adapter goes only now
        _clear(session, changed)
    folder.begin("bake", inputs, config.model_dump(mode="json"))
    examples = ask_teacher(session, objective, training)
    yardstick = Yardstick(base, held_out, config.teacher.top_k)
    student = session.backend.new_lora(base, rank=config.train.rank, seed=config.seed)
    schedule = Schedule(
        len(examples), config.train.batch_size, config.train.epochs, config.train.lr, config.seed
    )
    _train(session, student, examples, objective, schedule, yardstick)
    with atomic_folder(folder.adapter) as new:
        checkpoint = student.save_adapter(new)
        write_json(new / CHECKPOINT, vars(checkpoint))
    folder.finish("bake", time.monotonic() - started, steps=schedule.steps)


def steps(
    student: Trainer,
    examples: Sequence[Example],
    objective: Objective,
    schedule: Schedule,
    first: int = 0,
) -> Iterator[StepMetrics]:
    """The loop of prompt baking, from step `first` on: a gradient, a step, a line of metrics."""
    for step in range(first, schedule.steps):
        started = time.monotonic()
        batch = [examples[index] for index in schedule.batch(step)]
        lr = schedule.learning_rate(step)
        loss = student.forward_backward(batch, objective)
        stepped = student.optim_step(lr)
        stepped.result()
        if not math.isfinite(loss.result()):
            raise BakeError(
                f"step {step + 1}: the loss is {loss.result()}; lower train.lr, which is "
                f"{schedule.lr:g}, and bake again"
            )
        yield StepMetrics(
            step=step + 1,
            steps=schedule.steps,
            epoch=schedule.epoch(step) + 1,
            loss=loss.result(),
            lr=lr,
            tokens=sum(example.datum.n_response for example in batch),
            seconds=time.monotonic() - started,
        )


def _train(
    session: Session,
    student: Trainer,
    examples: Sequence[Example],
    objective: Objective,
    schedule: Schedule,
    yardstick: Yardstick,
) -> None:
    config, folder = session.config.train, session.run
    first = checkpoints.restore(folder.checkpoints, student)
    trackers: list[Tracker] = [
        session.make("trackers", name, "train.trackers") for name in dict.fromkeys(config.trackers)
    ]

    def log(metrics: StepMetrics) -> None:
        measured = metrics.step % config.eval_every == 0 or metrics.step == metrics.steps
        if measured:
            kl = yardstick.unprompted(student.model).per_token
            metrics = replace(metrics, held_out_kl=kl)
        for tracker in trackers:
            tracker.log(metrics)

    with ExitStack() as ending, session.reporter.bar("bake", schedule.steps, first) as bar:
        for tracker in trackers:
            tracker.start(folder.path, session.config.model_dump(mode="json"), first)
            ending.callback(tracker.finish)
        if not first:
            log(StepMetrics(step=0, steps=schedule.steps, epoch=0))
        for metrics in steps(student, examples, objective, schedule, first):
            log(metrics)
            if metrics.step % config.save_every == 0:
                checkpoints.save(folder.checkpoints, metrics.step, student)
            bar.advance(note=f"{metrics.loss:.3f} nats/token")


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
        kind: dict(config.options_of(kind, name))
        for kind, name in (
            ("teachers", config.teacher.source),
            ("losses", train.loss),
            ("backends", train.backend),
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
