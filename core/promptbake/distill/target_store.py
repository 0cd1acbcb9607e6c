"""The store of the teacher's targets: asked for once, read in every epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import safetensors.torch
import torch

from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.distill.objective import TailedLoss
from promptbake.errors import ContractError
from promptbake.files import write_atomic
from promptbake.interfaces import Teacher
from promptbake.runs.session import Session
from promptbake.seeds import derive
from promptbake.types import Datum, Example, TeacherLogprobs


class TargetStore:
    """One safetensors file a conversation, named by what its content depends on.

    The key covers the teacher, the model, the tokens that the teacher reads (hence the prompt),
    K, the draws and the seed. The prompt itself is in no file: only in the key's hash.
    """

    def __init__(self, folder: Path, **depends_on: object) -> None:
        self._folder = folder
        self._depends_on = depends_on

    def key(self, datum: Datum) -> str:
        """The file name, without its ending."""
        content = [self._depends_on, datum.teacher_ids, datum.n_response]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def __contains__(self, datum: Datum) -> bool:
        return self._path(datum).exists()

    def put(self, datum: Datum, targets: TeacherLogprobs) -> None:
        """Store one datum's targets, whole or not at all. Raises ValueError if misshapen."""
        check(datum, targets)
        tensors = {
            "ids": targets.ids.to(torch.int32),
            "logprobs": targets.logprobs.float(),
            "drawn_ids": targets.drawn_ids.to(torch.int32),
            "drawn_logprobs": targets.drawn_logprobs.float(),
            "drawn_importance_weights": targets.drawn_importance_weights.float(),
        }
        # A teacher may give views of one table; a file holds each tensor for itself.
        whole = {name: part.clone(memory_format=torch.contiguous_format)
                 for name, part in tensors.items()}  # fmt: skip
        write_atomic(self._path(datum), safetensors.torch.save(whole))

    def get(self, datum: Datum) -> TeacherLogprobs:
        """One datum's targets."""
        tensors = safetensors.torch.load(self._path(datum).read_bytes())
        return TeacherLogprobs(
            tensors["ids"].long(),
            tensors["logprobs"],
            tensors["drawn_ids"].long(),
            tensors["drawn_logprobs"],
            tensors["drawn_importance_weights"],
        )

    def _path(self, datum: Datum) -> Path:
        return self._folder / f"{self.key(datum)}.safetensors"


def check(datum: Datum, targets: TeacherLogprobs) -> None:
    """Raise ValueError for targets that are no N rows of sorted log-probabilities."""
    drawn = targets.drawn_ids, targets.drawn_logprobs, targets.drawn_importance_weights
    rows = {len(part) for part in (targets.ids, targets.logprobs, *drawn)}
    shapes_fit = targets.ids.shape == targets.logprobs.shape
    shapes_fit &= len({part.shape for part in drawn}) == 1
    if rows != {datum.n_response} or not shapes_fit:
        raise ValueError(
            f"{datum.conversation_id}: the teacher gave {tuple(targets.ids.shape)} ids and "
            f"{tuple(targets.logprobs.shape)} log-probabilities for {datum.n_response} tokens, "
            f"and {tuple(drawn[0].shape)} draws with {tuple(drawn[1].shape)}"
        )
    if not all(bool(part.isfinite().all()) for part in (targets.logprobs, *drawn[1:])):
        raise ValueError(f"{datum.conversation_id}: a log-probability of the teacher is not finite")
    if bool((targets.logprobs > 1e-4).any()) or bool((targets.logprobs.diff(dim=1) > 0).any()):
        raise ValueError(
            f"{datum.conversation_id}: the teacher's log-probabilities are not sorted nats below 0"
        )


def ask_teacher(session: Session, objective: TailedLoss, datums: Sequence[Datum]) -> list[Example]:
    """Every datum with its columns; the teacher is asked for what the store does not hold."""
    if not objective.asks_teacher:
        return [Example(datum, objective.columns(datum, None)) for datum in datums]
    targets = stored_targets(session, datums, objective.draws(session.config.train.tail_draws))
    return [
        Example(datum, objective.columns(datum, found))
        for datum, found in zip(datums, targets, strict=True)
    ]


def yardstick(session: Session, datums: Sequence[Datum]) -> HeldOutKL:
    """What held-out KL is measured with: the teacher is asked once, where it is paid for."""
    if session.base.full_vocabulary:
        return HeldOutKL(session.base, datums)
    return HeldOutKL(session.base, datums, list(stored_targets(session, datums, draws=0)))


def stored_targets(
    session: Session, datums: Sequence[Datum], draws: int
) -> Iterator[TeacherLogprobs]:
    """Every datum's targets, in order; the teacher is asked for what the store does not hold."""
    config = session.config
    store = TargetStore(
        session.run.targets,
        teacher=config.teacher.source,
        options=session.result_options("teachers", config.teacher.source, "teacher.source"),
        model=session.base.digest,
        k=config.teacher.top_k,
        draws=draws,
        seed=config.seed,
    )
    _fill(session, store, datums, draws)
    return (store.get(datum) for datum in datums)


def _fill(session: Session, store: TargetStore, datums: Sequence[Datum], draws: int) -> None:
    config = session.config
    wanted = [datum for datum in datums if datum not in store]
    if not wanted:
        return
    if len(wanted) < len(datums):
        stored = len(datums) - len(wanted)
        session.reporter.say(f"teacher: {stored} of {len(datums)} are stored already")
    teacher: Teacher = session.make("teachers", config.teacher.source, "teacher.source")
    answers = teacher.targets(
        [datum.teacher for datum in wanted],
        k=config.teacher.top_k,
        draws=draws,
        seeds=[derive(config.seed, "draws", store.key(datum)) for datum in wanted],
        open_model=session.open_model,
    )
    with session.reporter.bar("teacher", len(datums), len(datums) - len(wanted)) as bar:
        for index, answer in answers:
            try:
                store.put(wanted[index], answer)
            except ValueError as problem:
                raise ContractError(teacher, str(problem)) from problem
            bar.advance()
    missing = [datum.conversation_id for datum in wanted if datum not in store]
    if missing:
        raise ContractError(teacher, f"gave no targets for {', '.join(missing)}")
