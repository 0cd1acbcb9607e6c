"""The run's teacher and its held-out KL: what a stage opens of a session to score conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat

from promptbake.distill.checkpoints import identity
from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.distill.objective import TailedLoss
from promptbake.distill.target_store import StoredTeacher
from promptbake.interfaces import Model
from promptbake.runs.session import Session
from promptbake.types import Checkpoint, Datum, Example


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
) -> list[Example]:
    """Every datum with its support; the teacher scores what the store does not hold."""
    weights = {target.name: target.weight for target in session.targets}
    draws = objective.draws(session.config.train.tail_draws)
    scores = teacher.scores(datums, draws) if objective.requires_teacher else repeat(None)
    return [
        Example(datum, objective.support(datum, score, weights[datum.target]))
        for datum, score in zip(datums, scores, strict=False)
    ]


def held_out_kl(session: Session, datums: Sequence[Datum]) -> HeldOutKL:
    """The held-out KL of the run's conversations; a paid teacher scores them once."""
    if session.base.full_vocabulary:
        return HeldOutKL(session.base, datums)
    return HeldOutKL(session.base, datums, list(stored_teacher(session).scores(datums, draws=0)))
