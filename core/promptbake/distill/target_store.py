"""The store of the teacher's log-probabilities: computed once, read in every epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from promptbake.errors import BakeError
from promptbake.files import write_atomic
from promptbake.interfaces import Model, Teacher
from promptbake.plugins.attribution import contract_error
from promptbake.progress import Reporter
from promptbake.redaction import excerpt
from promptbake.seeds import derive
from promptbake.types import Datum, TeacherLogprobs


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

    def put(self, datum: Datum, scores: TeacherLogprobs) -> None:
        """Store one datum's log-probabilities, whole or not at all.

        Raises:
            ValueError: They have a wrong shape, or are no log-probabilities.
        """
        check(datum, scores)
        tensors = {
            "ids": scores.ids.to(torch.int32),
            "logprobs": scores.logprobs.float(),
            "drawn_ids": scores.drawn_ids.to(torch.int32),
            "drawn_logprobs": scores.drawn_logprobs.float(),
            "drawn_importance_weights": scores.drawn_importance_weights.float(),
        }
        # A teacher may give views of one table; a file holds each tensor for itself.
        whole = {name: part.clone(memory_format=torch.contiguous_format)
                 for name, part in tensors.items()}  # fmt: skip
        write_atomic(self._path(datum), safetensors.torch.save(whole))

    def get(self, datum: Datum) -> TeacherLogprobs:
        """One datum's log-probabilities. Raises BakeError where the file is damaged."""
        path = self._path(datum)
        try:
            tensors = safetensors.torch.load(path.read_bytes())
            scores = TeacherLogprobs(
                tensors["ids"].long(),
                tensors["logprobs"],
                tensors["drawn_ids"].long(),
                tensors["drawn_logprobs"],
                tensors["drawn_importance_weights"],
            )
            check(datum, scores)
        except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise BakeError(
                f"{path}: is damaged ({excerpt(str(error), 120)}); delete it and run the same "
                "command: it is computed again"
            ) from None
        return scores

    def _path(self, datum: Datum) -> Path:
        return self._folder / f"{self.key(datum)}.safetensors"


def check(datum: Datum, scores: TeacherLogprobs) -> None:
    """Raise ValueError for what is not N rows of sorted log-probabilities."""
    drawn = scores.drawn_ids, scores.drawn_logprobs, scores.drawn_importance_weights
    rows = {len(part) for part in (scores.ids, scores.logprobs, *drawn)}
    shapes_fit = scores.ids.shape == scores.logprobs.shape
    shapes_fit &= len({part.shape for part in drawn}) == 1
    if rows != {datum.n_response} or not shapes_fit:
        raise ValueError(
            f"{datum.conversation_id}: the teacher gave {tuple(scores.ids.shape)} ids and "
            f"{tuple(scores.logprobs.shape)} log-probabilities for {datum.n_response} tokens, "
            f"and {tuple(drawn[0].shape)} draws with {tuple(drawn[1].shape)}"
        )
    if not all(bool(part.isfinite().all()) for part in (scores.logprobs, *drawn[1:])):
        raise ValueError(f"{datum.conversation_id}: a log-probability of the teacher is not finite")
    if bool((scores.logprobs > 1e-4).any()) or bool((scores.logprobs.diff(dim=1) > 0).any()):
        raise ValueError(
            f"{datum.conversation_id}: the teacher's log-probabilities are not sorted nats below 0"
        )


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher that scores each conversation once: its scores are stored.

    Attributes:
        create: Creates the teacher; called where something is missing from the store.
        open_model: Opens the model that the teacher is.
        folder: Of the store.
        depends_on: What a score depends on beside the tokens, K, the draws and the seed.
        k: K.
        seed: The run's.
        reporter: Shows the progress.
    """

    create: Callable[[], Teacher]
    open_model: Callable[[], Model]
    folder: Path
    depends_on: Mapping[str, object]
    k: int
    seed: int
    reporter: Reporter

    def scores(self, datums: Sequence[Datum], draws: int) -> Iterator[TeacherLogprobs]:
        """Every datum's log-probabilities, in order; the teacher scores the missing ones."""
        store = TargetStore(self.folder, **self.depends_on, k=self.k, draws=draws, seed=self.seed)
        self._fill(store, datums, draws)
        return (store.get(datum) for datum in datums)

    def _fill(self, store: TargetStore, datums: Sequence[Datum], draws: int) -> None:
        wanted = [datum for datum in datums if datum not in store]
        if not wanted:
            return
        if len(wanted) < len(datums):
            stored = len(datums) - len(wanted)
            self.reporter.say(f"teacher: {stored} of {len(datums)} are stored already")
        teacher = self.create()
        answers = teacher.score(
            [datum.teacher for datum in wanted],
            k=self.k,
            draws=draws,
            seeds=[derive(self.seed, "draws", store.key(datum)) for datum in wanted],
            open_model=self.open_model,
        )
        with self.reporter.bar("teacher", len(datums), len(datums) - len(wanted)) as bar:
            for answer in answers:
                try:
                    index, scores = answer
                    store.put(wanted[index], scores)
                except (AttributeError, IndexError, TypeError, ValueError) as problem:
                    raise contract_error(teacher, str(problem)) from problem
                bar.advance()
        missing = [datum.conversation_id for datum in wanted if datum not in store]
        if missing:
            raise contract_error(teacher, f"gave no scores for {', '.join(missing)}")
