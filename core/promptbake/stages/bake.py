"""Stage 2: minimise the KL from the prompted teacher to the unprompted LoRA student.

    L = mean over response positions t of KL( P_theta(. | y<t, u, x) || P_theta_u(. | y<t, x) )

Prompt Baking, arXiv 2409.13697, Eq. 3.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from promptbake.dataset.alignment import align_all, check_room
from promptbake.distill import checkpoints
from promptbake.distill.batches import StoredBatches, score_conversations
from promptbake.distill.loop import Step, steps
from promptbake.distill.measurement_store import BASE_WEIGHTS
from promptbake.distill.objective import TailedLoss
from promptbake.distill.sampling_check import SamplingCheck
from promptbake.distill.schedule import Schedule
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import (
    BatchContext,
    BatchSource,
    Model,
    Tracker,
    Trainer,
)
from promptbake.report.diagnosis import describe_base_kl
from promptbake.runs.bake_record import (
    DEFAULTS,
    BakeOptions,
    bake_inputs,
    clear,
    damaged_files,
    save_adapter,
)
from promptbake.runs.generation import load_dataset, prepare
from promptbake.runs.scoring import (
    choose_tail,
    held_out_kls,
    open_measurements,
    stored_teacher,
    training_examples,
)
from promptbake.runs.session import Session
from promptbake.runs.training_log import Curve, keep_state, loss_note, tracked
from promptbake.types import Datum, StepMetrics, Tail


def run(session: Session, options: BakeOptions = DEFAULTS) -> None:
    """Train the adapter on the run's data, or resume where an earlier run stopped."""
    config, folder, base = session.config, session.run, session.base
    dataset = load_dataset(session)
    for target in session.targets:
        check_room(target.teacher, base, config.data.max_tokens)
    choice = choose_tail(session)
    inputs = bake_inputs(session, options, choice.tail)
    state, changed = folder.state("bake", inputs)
    if state == "done" and not (damaged := damaged_files(session)):
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
    kls = list(held_out_kls(session, dataset.held_out, open_measurements(session)).values())

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
            "bake", time.monotonic() - started, adapter=save_adapter(folder, student), **results
        )
        return
    _preflight(session, student, objective)
    # What can be refused has been: the earlier adapter is deleted only now. That it counts no more
    # is recorded before, so that a kill in between leaves no record of an adapter that is gone.
    margins = config.verify.margins.model_dump()
    session.begin("bake", inputs, clean=state != "fresh", fixed={"margins": margins})
    if state == "fresh":
        clear(session, changed)
        folder.set_clean("bake")
    with tracked(session, trackers, first):  # a tracker may refuse, and the teacher costs
        batches, check = _batches(session, options, objective, training, schedule)
        for kl in kls:
            _ = kl.held_out_kl  # a paid teacher scores before training, not at the first point
        start = options.start
        curve = Curve(session, kls, checkpoints.identity(start) if start else BASE_WEIGHTS)
        every = config.train.eval_every, config.train.save_every
        loop = steps(student, batches, objective, schedule, first, *every)
        _train(session, student, loop, schedule, curve, first, trackers, choice.tail)
        adapter = save_adapter(folder, student)
        saved = checkpoints.read_adapter(folder.adapter, session.backend.name, base)
        curve.keep_last(schedule.steps, checkpoints.identity(saved))
    results = {"steps": schedule.steps, "tail": asdict(choice), "sampling": check.as_json()}
    folder.finish("bake", time.monotonic() - started, adapter=adapter, **results)


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
    curve: Curve,
    first: int,
    trackers: Sequence[Tracker],
    tail: Tail,
) -> None:
    def log(metrics: StepMetrics) -> None:
        for tracker in trackers:
            tracker.log(metrics)

    taken = saved = first
    with session.reporter.bar("bake", schedule.steps, first) as bar:
        if not first:
            before = curve.begin(student)
            if before is not None:
                session.reporter.say(describe_base_kl(before))
            log(StepMetrics(step=0, steps=schedule.steps, epoch=0, held_out_kl=before))
        try:
            for step in loop:
                taken = step.metrics.step
                measured = (
                    curve.measure(taken, step.snapshot) if step.snapshot is not None else None
                )
                log(replace(step.metrics, held_out_kl=measured))
                if step.state is not None and keep_state(session, taken, step.state):
                    saved = taken
                bar.advance(note=loss_note(step.metrics.loss, tail))
        except BudgetError:  # nothing is in flight any more: what was paid for is kept
            if taken > saved:
                keep_state(session, taken, student.save_state(taken))
            raise
        finally:
            curve.report()


def _preflight(session: Session, student: Trainer, objective: TailedLoss) -> None:
    config = session.config
    k = config.teacher.top_k if objective.requires_teacher else 0
    for line in student.preflight(k=k, draws=objective.draws(config.train.tail_draws)):
        session.reporter.say(f"train.backend = {config.train.backend}: {line}")
