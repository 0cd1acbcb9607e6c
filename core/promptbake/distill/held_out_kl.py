"""Held-out KL: how far an arm is from the prompted model, on responses never trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from promptbake.distill.objective import full_kl, rest
from promptbake.interfaces import Model
from promptbake.types import Datum, KLByConversation, Span, TeacherLogprobs

KEEP_BYTES = 2**30
CHUNK = 4  # datums scored at a time, where each result is [N, V]


class HeldOutKL:
    """The prompted model's distributions at held-out responses, and the KL of a model from them.

    Over the whole vocabulary, computed by the teacher (`kind` is `full`); or, where `scores` are
    given, over their top K with the rest in one bucket, a lower bound (`top_k_bucket`). The
    teacher's distributions are kept while they are under `keep_bytes`, and computed again at each
    use where they are larger.
    """

    def __init__(
        self,
        teacher: Model,
        datums: Sequence[Datum],
        scores: Sequence[TeacherLogprobs] | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self.kind = "full" if scores is None else "top_k_bucket"
        self._teacher, self._datums, self._scores = teacher, datums, scores
        self._keep_bytes = keep_bytes
        self._kept: list[_Reference] | None = None

    def unprompted(self, model: Model) -> KLByConversation:
        """How far a model without the prompt is from the prompted base model."""
        return self._measure(model, lambda datum: datum.student)

    def prompted(self, model: Model) -> KLByConversation:
        """How far a model with the prompt is from the prompted base model."""
        return self._measure(model, lambda datum: datum.teacher)

    def _measure(self, model: Model, side: Callable[[Datum], Span]) -> KLByConversation:
        nats: list[float] = []
        by_token: list[tuple[float, ...]] = []
        pairs = zip(self._datums, self._references(), strict=True)
        size = CHUNK if self._scores is None else len(self._datums)
        while chunk := list(islice(pairs, size)):
            spans = [side(datum) for datum, _ in chunk]
            ids = [reference.ids for _, reference in chunk if reference.ids is not None]
            students = model.logprobs(spans, ids or None)
            for (_, reference), student in zip(chunk, students, strict=True):
                arm = _with_rest(student) if ids else student
                kl = full_kl(reference.logprobs, arm)
                nats.append(float(kl.sum()))
                by_token.append(tuple(kl.tolist()))
        tokens = tuple(datum.n_response for datum in self._datums)
        return KLByConversation(tuple(nats), tokens, tuple(by_token))

    def _references(self) -> Iterator[_Reference]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[_Reference] = []
        size = 0
        for reference in self._compute():
            size += reference.logprobs.nbytes
            if size <= self._keep_bytes:
                kept.append(reference)
            yield reference
        if size <= self._keep_bytes:
            self._kept = kept

    def _compute(self) -> Iterator[_Reference]:
        if self._scores is not None:
            for scores in self._scores:
                yield _Reference(scores.ids, _with_rest(scores.logprobs))
            return
        for logprobs in self._teacher.logprobs([datum.teacher for datum in self._datums]):
            yield _Reference(None, logprobs)


@dataclass(frozen=True, eq=False)
class _Reference:
    ids: Tensor | None  # int64 [N, K], or None for the whole vocabulary
    logprobs: Tensor  # float32 [N, V], or [N, K + 1] with the rest in the last column


def _with_rest(logprobs: Tensor) -> Tensor:
    return torch.cat([logprobs, rest(logprobs)], dim=1)
