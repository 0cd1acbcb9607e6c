"""The run's teacher and its held-out KL: what a stage opens of a session to score conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from promptbake.dataset.alignment import align_all
from promptbake.distill.checkpoints import identity
from promptbake.distill.held_out_kl import KEEP_BYTES, HeldOutKL, StoredKL
from promptbake.distill.measurement_store import MeasurementStore
from promptbake.distill.objective import TailedLoss
from promptbake.distill.sampling_check import SamplingCheck
from promptbake.distill.target_store import StoredTeacher
from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.runs.session import Session
from promptbake.types import Checkpoint, Conversation, Datum, Example, Tail


@dataclass(frozen=True)
class TailChoice:
    """How tokens outside the top K are treated, and why."""

    tail: Tail
    reason: str


def choose_tail(session: Session) -> TailChoice:
    """What `train.tail` is; `auto` depends on what the teacher can do.

    Raises:
        BakeError: `sampled` is set, and the teacher draws nothing. The response's own token would
            be the only draw, whose importance weights reach millions.
    """
    config, support = session.config, session.loss.support
    tail = config.train.tail
    if support != "teacher":
        reason = f"the loss is evaluated on the {support} and needs no draws of a teacher"
        return TailChoice("sampled" if tail == "auto" else tail, reason)
    teacher = f"teacher.source = {config.teacher.source!r}"
    if tail != "auto" and tail != "sampled":
        return TailChoice(tail, "it is set")
    if session.teacher().samples_tail:
        return TailChoice("sampled", f"{teacher} draws tokens from the tail")
    if tail == "sampled":
        raise BakeError(
            f"train.tail = 'sampled': {teacher} draws no tokens from the tail; set "
            "train.tail=bucket, or leave it at 'auto'"
        )
    return TailChoice("bucket", f"{teacher} draws no tokens from the tail")


def stored_teacher(
    session: Session,
    open_model: Callable[[], Model] | None = None,
    baked: Checkpoint | None = None,
) -> StoredTeacher:
    """The run's teacher, which scores what the run's store does not hold.

    Args:
        session: The run.
        open_model: The model that the teacher is: the base model unless it is given.
        baked: The bake that it is, where it is one.
    """
    config = session.config
    depends_on: dict[str, object] = {
        "teacher": config.teacher.source,
        "options": session.result_options(config.teacher_source),
        "model": session.base.digest,
    }
    if baked is not None:
        depends_on["baked"] = identity(baked)
    return StoredTeacher(
        create=session.teacher,
        open_model=open_model or session.open_base,
        folder=session.run.teacher_logprobs,
        depends_on=depends_on,
        k=config.teacher.top_k,
        seed=config.seed,
        reporter=session.reporter,
    )


def training_examples(
    session: Session, teacher: StoredTeacher, objective: TailedLoss, datums: Sequence[Datum]
) -> tuple[list[Example], SamplingCheck]:
    """Every datum with its support; the teacher scores what the store does not hold.

    Beside them, the check of the responses by those scores. What it finds is said.
    """
    weights = {target.name: target.weight for target in session.targets}
    draws = objective.draws(session.config.train.tail_draws)
    scores = teacher.scores(datums, draws) if objective.requires_teacher else repeat(None)
    examples, check = list[Example](), SamplingCheck()
    for datum, score in zip(datums, scores, strict=False):
        examples.append(Example(datum, objective.support(datum, score, weights[datum.target])))
        if score is not None:
            check.add(datum, score)
    for line in check.warnings():
        session.reporter.say(f"bake: {line}")
    return examples, check


def open_measurements(
    session: Session, file: Path | None = None, *, anew: bool = False
) -> MeasurementStore:
    """Measurements made by this backend on this model; none that are stored where `anew`.

    They are the run's, unless another `file` is given.
    """
    choice = session.config.backend
    return MeasurementStore(
        file or session.run.measurements,
        session.reporter.say,
        anew=anew,
        backend=choice.name,
        version=session.registry.choose(choice).version,
        options=session.result_options(choice),
        model=session.base.digest,
    )


def held_out_kls(
    session: Session, conversations: Sequence[Conversation], store: MeasurementStore
) -> dict[str, StoredKL]:
    """The held-out KL of each target's conversations, by its name."""
    datums = align_all(conversations, session.targets, session.base)
    return {
        target.name: stored_kl(
            session, [each for each in datums if each.target == target.name], store
        )
        for target in session.targets
    }


def stored_kl(session: Session, datums: Sequence[Datum], store: MeasurementStore) -> StoredKL:
    """Over the whole vocabulary; or over the top K that a paid teacher scores once."""
    if session.base.full_vocabulary:
        keep_bytes = KEEP_BYTES // len(session.targets)
        return StoredKL(
            lambda: HeldOutKL(session.base, datums, keep_bytes=keep_bytes), datums, store, "full"
        )
    teacher = stored_teacher(session)
    reference = {**teacher.depends_on, "k": teacher.k, "seed": teacher.seed}
    return StoredKL(
        lambda: HeldOutKL(session.base, datums, list(teacher.scores(datums, draws=0))),
        datums,
        store,
        reference,
    )
