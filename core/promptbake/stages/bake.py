"""Stage 2: minimise the KL from the prompted teacher to the unprompted LoRA student.

    L = mean over response positions t of KL( P_theta(. | y<t, u, x) || P_theta_u(. | y<t, x) )

Prompt Baking, arXiv 2409.13697, Eq. 3.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

from promptbake.dataset.alignment import align_all, check_room
from promptbake.distill import checkpoints
from promptbake.distill.batches import StoredBatches, score_conversations
from promptbake.distill.checkpoints import CHECKPOINT
from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.distill.loop import Step, steps
from promptbake.distill.objective import TailedLoss
from promptbake.distill.sampling_check import SamplingCheck
from promptbake.distill.schedule import Schedule
from promptbake.errors import BakeError, BudgetError
from promptbake.files import atomic_folder, digest_file, write_json
from promptbake.interfaces import (
    BatchContext,
    BatchSource,
    Model,
    Pending,
    Tracker,
    Trainer,
    TrainingState,
)
from promptbake.report.diagnosis import describe_base_kl
from promptbake.runs.generation import load_dataset, prepare
from promptbake.runs.run_folder import Run
from promptbake.runs.scoring import choose_tail, held_out_kl, stored_teacher, training_examples
from promptbake.runs.session import Session
from promptbake.types import Checkpoint, Datum, StepMetrics, Tail


@dataclass(frozen=True)
class BakeOptions:
    """What a bake may start from and learn from, beside the run's settings.

    Attributes:
        start: An earlier bake that the student starts from.
        teacher: The bake that the prompted teacher is; None for the bare base model.
        batches: Makes the source of batches; None for the stored conversations.
        force: Replace a finished bake of another profile or model.
        keep: Train no further: the last state that was saved becomes the adapter.
    """

    start: Checkpoint | None = None
    teacher: Checkpoint | None = None
    batches: Callable[[BatchContext], BatchSource] | None = None
    force: bool = False
    keep: bool = False


def run(session: Session, options: BakeOptions = BakeOptions()) -> None:
    """Train the adapter on the run's data, or resume where an earlier run stopped."""
    config, folder, base = session.config, session.run, session.base
    dataset = load_dataset(session)
    for target in session.targets:
        check_room(target.teacher, base, config.data.max_tokens)
    choice = choose_tail(session)
    inputs = _inputs(session, options, choice.tail)
    state, changed = folder.state("bake", inputs)
    if state == "done" and not (damaged := _damaged(session)):
        session.reporter.say(f"bake: {folder.adapter} is baked already")
        return
    if state == "done":
        session.reporter.say(
            f"bake: {folder.adapter}: {', '.join(damaged)}: missing, or not as baked; baking again"
        )
    if changed and not options.force:
        session.refuse_replacement()
    started = time.monotonic()
    if config.train.tail == "auto" and choice.tail != "sampled":
        session.reporter.say(f"train.tail = 'auto': {choice.tail}, since {choice.reason}")
    objective = TailedLoss(session.loss, choice.tail)
    training = align_all(dataset.training, session.targets, base)
    held_out = align_all(dataset.held_out, session.targets, base)

    student = session.backend.new_lora(
        base, rank=config.train.rank, seed=config.seed, start=options.start
    )
    trackers = session.trackers()
    say = session.reporter.say
    first = 0 if state == "fresh" else checkpoints.restore(folder.checkpoints, student, say)
    schedule = Schedule(
        len(training), config.train.batch_size, config.train.epochs, config.train.lr, config.seed
    )
    if options.keep:
        if not first:
            raise BakeError(
                f"{folder.path}: --keep found no stopped bake of these settings with a saved step; "
                "run `promptbake bake` without it"
            )
        results = {"steps": first, "planned_steps": schedule.steps, "tail": asdict(choice)}
        folder.finish(
            "bake", time.monotonic() - started, adapter=_save_adapter(folder, student), **results
        )
        return
    _preflight(session, student, objective)
    # What can be refused has been: the earlier adapter is deleted only now. That it counts no more
    # is recorded before, so that a kill in between leaves no record of an adapter that is gone.
    session.begin("bake", inputs, clean=state != "fresh")
    if state == "fresh":
        _clear(session, changed)
        folder.set_clean("bake")
    with _tracked(session, trackers, first):  # a tracker may refuse, and the teacher costs
        batches, check = _batches(session, options, objective, training, schedule)
        kl = held_out_kl(session, held_out)
        every = config.train.eval_every, config.train.save_every
        loop = steps(student, batches, objective, schedule, first, *every)
        _train(session, student, loop, schedule, kl, first, trackers, choice.tail)
        adapter = _save_adapter(folder, student)
    results = {"steps": schedule.steps, "tail": asdict(choice), "sampling": check.as_json()}
    folder.finish("bake", time.monotonic() - started, adapter=adapter, **results)


def _damaged(session: Session) -> list[str]:
    """What is missing of the finished adapter, or not as the bake left it."""
    adapter, recorded = session.run.adapter, session.run.stage("bake").get("adapter")
    if recorded is None:
        return [] if adapter.exists() else [adapter.name]
    return checkpoints.differing(adapter, recorded)


def _save_adapter(folder: Run, student: Trainer) -> dict[str, str]:
    """Save the student; the digests of its files."""
    with atomic_folder(folder.adapter) as new:
        checkpoint = student.save_adapter(new)
        write_json(new / CHECKPOINT, vars(checkpoint))
    return checkpoints.digests(folder.adapter)


def _batches(
    session: Session,
    options: BakeOptions,
    objective: TailedLoss,
    training: Sequence[Datum],
    schedule: Schedule,
) -> tuple[BatchSource, SamplingCheck]:
    """The stored conversations, scored by the teacher; or the source that `options` gives.

    And what the teacher's scores say about the stored responses.
    """
    base, config = session.base, session.config
    open_teacher = session.open_base
    if options.teacher is not None:
        baked = session.backend.load_adapter(base, options.teacher)

        def open_teacher() -> Model:
            return baked

    stored = objective.loss.support != "student"
    if not stored and options.batches is None:
        raise BakeError(
            f"train.loss = {config.train.loss!r}: is evaluated on the student's own tokens, which "
            "stored conversations do not have; it needs a source of batches on policy"
        )
    teacher = stored_teacher(session, open_teacher, options.teacher)
    scored = training if stored else ()
    examples, check = training_examples(session, teacher, objective, scored)
    if options.batches is None:
        return StoredBatches(examples, schedule), check
    source = options.batches(
        BatchContext(
            examples=tuple(examples),
            targets=session.targets,
            queries=prepare(session).training,
            open_model=session.open_base,
            score=lambda conversations, student: score_conversations(
                conversations,
                session.targets,
                objective,
                teacher,
                student,
                config.train.tail_draws,
            ),
            batch_size=config.train.batch_size,
            max_tokens=config.data.max_tokens,
            seed=config.seed,
        )
    )
    return source, check


def _train(
    session: Session,
    student: Trainer,
    loop: Iterator[Step],
    schedule: Schedule,
    kl: HeldOutKL,
    first: int,
    trackers: Sequence[Tracker],
    tail: Tail,
) -> None:
    curve = Curve(session, kl)

    def log(metrics: StepMetrics, snapshot: Pending[Model] | None) -> None:
        if snapshot is not None:
            metrics = replace(metrics, held_out_kl=curve.measure(metrics.step, snapshot))
            if not metrics.step and metrics.held_out_kl is not None:
                session.reporter.say(describe_base_kl(metrics.held_out_kl))
        for tracker in trackers:
            tracker.log(metrics)

    taken = saved = first
    with session.reporter.bar("bake", schedule.steps, first) as bar:
        if not first:
            log(StepMetrics(step=0, steps=schedule.steps, epoch=0), student.snapshot())
        try:
            for step in loop:
                taken = step.metrics.step
                log(step.metrics, step.snapshot)
                if step.state is not None and _save(session, taken, step.state):
                    saved = taken
                bar.advance(note=_loss_note(step.metrics.loss, tail))
        except BudgetError:  # nothing is in flight any more: what was paid for is kept
            if taken > saved:
                _save(session, taken, student.save_state(taken))
            raise
        finally:
            curve.report()


def _loss_note(loss: float | None, tail: Tail) -> str:
    """The step's loss; with the reason where it is below 0, as no KL is."""
    if loss is None:
        return ""
    note = f"{loss:.3f} nats/token"
    if loss >= 0:
        return note
    if tail == "sampled":
        return f"{note} (estimated by draws, so it may be below 0; the KL is not)"
    return f"{note} (no KL: train.tail = {tail!r})"


@contextmanager
def _tracked(session: Session, trackers: Sequence[Tracker], first: int) -> Iterator[None]:
    """The trackers follow the run from step `first` on, until it has ended or failed."""
    with ExitStack() as ending:
        for tracker in trackers:
            with session.run.recording_files():
                tracker.start(session.run.path, session.config.model_dump(mode="json"), first)
            ending.callback(tracker.finish)
        yield


def _save(session: Session, step: int, state: Pending[TrainingState]) -> bool:
    """Keep a state to resume from; training does not end because one could not be saved."""
    try:
        files = state.result()
    except BakeError as error:
        session.reporter.say(f"the state after step {step} is not kept: {error}")
        return False
    checkpoints.save(session.run.checkpoints, step, files)
    return True


def _preflight(session: Session, student: Trainer, objective: TailedLoss) -> None:
    config = session.config
    k = config.teacher.top_k if objective.requires_teacher else 0
    for line in student.preflight(k=k, draws=objective.draws(config.train.tail_draws)):
        session.reporter.say(f"train.backend = {config.train.backend}: {line}")


class Curve:
    """The held-out curve: training does not end because a point could not be measured."""

    def __init__(self, session: Session, kl: HeldOutKL) -> None:
        self._session, self._kl = session, kl
        self._points = self._missing = 0

    def measure(self, step: int, snapshot: Pending[Model]) -> float | None:
        """Nats per response token; None where it could not be measured."""
        self._points += 1
        try:
            return self._kl.unprompted(snapshot.result()).per_token
        except BakeError as error:
            self._missing += 1
            self._session.reporter.say(f"held-out KL not measured at step {step}: {error}")
            return None

    def report(self) -> None:
        """Say how many points are missing, if any."""
        if self._missing:
            self._session.reporter.say(
                f"held-out curve: {self._missing} of {self._points} points could not be measured"
            )


def _clear(session: Session, changed: list[str]) -> None:
    folder = session.run
    if changed:
        session.reporter.say(f"bake: {', '.join(changed)} changed; baking anew")
    for path in (folder.checkpoints, folder.adapter):
        shutil.rmtree(path, ignore_errors=True)
    for file in (folder.metrics, folder.verify, folder.report):
        file.unlink(missing_ok=True)


def _inputs(session: Session, options: BakeOptions, tail: Tail) -> dict[str, object]:
    config = session.config
    train = config.train
    inputs: dict[str, object] = {
        "data": session.run.stage("data")["inputs"],
        "conversations": digest_file(session.run.data),
        "model": session.base.digest,
        "seed": config.seed,
        "teacher": config.teacher.model_dump(mode="json"),
        "train": train.model_dump(mode="json", exclude={"save_every", "eval_every", "trackers"})
        | {"tail": tail},
        "options": {
            choice.kind: session.result_options(choice)
            for choice in (config.teacher_source, config.loss, config.backend)
        },
    }
    if config.targets:
        inputs["targets"] = [target.weight for target in session.targets]
    for name, checkpoint in (("start", options.start), ("teacher_bake", options.teacher)):
        if checkpoint is not None:
            inputs[name] = checkpoints.identity(checkpoint)
    if options.batches is not None:
        inputs["batches"] = getattr(options.batches, "__qualname__", repr(options.batches))
    return inputs
