"""The store of the teacher's log-probabilities: computed once, read in every epoch."""

from __future__ import annotations

import hashlib
import json
import re
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
from promptbake.seeds import derive
from promptbake.types import Datum, TeacherLogprobs, TokenIds

FILE_NAME = re.compile(r"([0-9a-f]{32})-[0-9a-f]{32}\.safetensors")


class TargetStore:
    """One safetensors file a conversation, named by what it depends on, and by its SHA-256.

    The key covers the teacher, the model, the tokens that the teacher reads (hence the prompt),
    K, the draws and the seed. The prompt itself is in no file: only in the key's hash. A file whose
    content is no longer that of its name is damaged, and not read.
    """

    def __init__(self, folder: Path, **depends_on: object) -> None:
        self._folder = folder
        self._depends_on = depends_on
        # By key. Files of other names, such as those of before there were checksums, are none.
        self._files = {
            match[1]: file
            for file in (folder.iterdir() if folder.is_dir() else ())
            if (match := FILE_NAME.fullmatch(file.name))
        }

    def key(self, datum: Datum) -> str:
        """The file name, without its ending."""
        content = [self._depends_on, datum.teacher_ids, datum.n_response]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def __contains__(self, datum: Datum) -> bool:
        return self.key(datum) in self._files

    def delete_damaged(self, datums: Sequence[Datum]) -> list[str]:
        """Delete what is damaged of these datums, and return their conversations' ids."""
        damaged = [datum for datum in datums if datum in self and self._content(datum) is None]
        for datum in damaged:
            if file := self._files.pop(self.key(datum), None):  # None: of two with the same tokens
                file.unlink(missing_ok=True)
        return [datum.conversation_id for datum in damaged]

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
        content = safetensors.torch.save(whole)
        file = self._folder / f"{self.key(datum)}-{_digest(content)}.safetensors"
        write_atomic(file, content)
        self._files[self.key(datum)] = file

    def get(self, datum: Datum) -> TeacherLogprobs:
        """One datum's log-probabilities. Raises BakeError where they were damaged just now."""
        content = self._content(datum)
        if content is None:
            file = self._files[self.key(datum)]
            raise BakeError(f"{file}: is damaged; run the same command to score it again")
        tensors = safetensors.torch.load(content)
        return TeacherLogprobs(
            tensors["ids"].long(),
            tensors["logprobs"],
            tensors["drawn_ids"].long(),
            tensors["drawn_logprobs"],
            tensors["drawn_importance_weights"],
        )

    def _content(self, datum: Datum) -> bytes | None:
        file = self._files[self.key(datum)]
        content = file.read_bytes() if file.is_file() else b""
        return content if file.stem.endswith(f"-{_digest(content)}") else None


def draw_seed(seed: int, prompt: TokenIds) -> int:
    """The draws' seed of a response to these tokens: known before the response is.

    Conversations with the same tokens share a file, and so they share the draws.
    """
    return derive(seed, "draws", list(prompt))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


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
        store = self.store(draws)
        self._fill(store, datums, draws)
        return (store.get(datum) for datum in datums)

    def store(self, draws: int) -> TargetStore:
        """Where the log-probabilities with so many draws are."""
        return TargetStore(self.folder, **self.depends_on, k=self.k, draws=draws, seed=self.seed)

    def _fill(self, store: TargetStore, datums: Sequence[Datum], draws: int) -> None:
        if damaged := store.delete_damaged(datums):
            names = ", ".join(damaged)
            self.reporter.say(
                f"teacher: {len(damaged)} stored scores are damaged, and asked for again: {names}"
            )
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
            seeds=[
                draw_seed(self.seed, datum.teacher_ids[: -datum.n_response]) for datum in wanted
            ],
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
