"""Held-out KL: how far an arm is from the prompted model, on responses never trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from promptbake.distill.measurement_store import MeasurementStore
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
        rows: list[_Row] = []
        pairs = zip(self._datums, self._references(), strict=True)
        size = CHUNK if self._scores is None else len(self._datums)
        while chunk := list(islice(pairs, size)):
            spans = [side(datum) for datum, _ in chunk]
            ids = [reference.ids for _, reference in chunk if reference.ids is not None]
            students = model.logprobs(spans, ids or None)
            for (_, reference), student in zip(chunk, students, strict=True):
                rows.append(_row(reference, _with_rest(student) if ids else student))
        whole = rows if self._scores is None else []
        return KLByConversation(
            nats=tuple(row.nats for row in rows),
            tokens=tuple(datum.n_response for datum in self._datums),
            by_token=tuple(row.by_token for row in rows),
            top_1=tuple(row.top_1 for row in whole),
            entropy=tuple(row.entropy for row in whole),
            prompted_entropy=tuple(row.prompted_entropy for row in whole),
        )

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


@dataclass(frozen=True)
class _Row:
    """What is measured of one conversation; nats, summed but for `by_token`."""

    nats: float
    by_token: tuple[float, ...]
    top_1: int
    entropy: float
    prompted_entropy: float


def _row(reference: _Reference, arm: Tensor) -> _Row:
    kl = full_kl(reference.logprobs, arm)
    same = reference.logprobs.argmax(dim=1) == arm.argmax(dim=1).to(reference.logprobs.device)
    return _Row(
        float(kl.sum()),
        tuple(kl.tolist()),
        int(same.sum()),
        _entropy(arm),
        _entropy(reference.logprobs),
    )


def _entropy(logprobs: Tensor) -> float:
    """Summed over the positions of [N, V], in nats."""
    return float(torch.special.entr(logprobs.exp()).sum())


class StoredKL:
    """The held-out KL of one target: what was measured before is read from the store.

    Weights are told apart by `BASE_WEIGHTS`, or by an adapter's identity.

    Args:
        open_kl: Opens what measures it; a paid teacher scores the conversations then.
        datums: The target's held-out conversations.
        store: The run's store of measurements.
        reference: What the teacher's distributions depend on, beside the tokens.
    """

    def __init__(
        self,
        open_kl: Callable[[], HeldOutKL],
        datums: Sequence[Datum],
        store: MeasurementStore,
        reference: object,
    ) -> None:
        self.datums = datums
        self._open, self._store, self._reference = open_kl, store, reference

    @cached_property
    def held_out_kl(self) -> HeldOutKL:
        """What measures it, opened at first use."""
        return self._open()

    def unprompted(self, weights: str, open_model: Callable[[], Model]) -> KLByConversation:
        """How far these weights without the prompt are from the prompted base model."""
        key = self._key(weights, "student")
        return self._stored(key, lambda: self.held_out_kl.unprompted(open_model()))

    def prompted(self, weights: str, open_model: Callable[[], Model]) -> KLByConversation:
        """How far these weights with the prompt are from the prompted base model."""
        key = self._key(weights, "teacher")
        return self._stored(key, lambda: self.held_out_kl.prompted(open_model()))

    def keep_unprompted(self, weights: str, kl: KLByConversation) -> None:
        """Store what was measured before the weights were saved, and so had an identity."""
        self._store.put_kl(self._key(weights, "student"), kl)

    def _key(self, weights: str, side: Literal["student", "teacher"]) -> str:
        spans = [
            (getattr(datum, f"{side}_ids"), datum.teacher_ids, datum.n_response)
            for datum in self.datums
        ]
        return self._store.key(reference=self._reference, weights=weights, spans=spans)

    def _stored(self, key: str, measure: Callable[[], KLByConversation]) -> KLByConversation:
        known = self._store.kl(key)
        if known is None:
            known = measure()
            self._store.put_kl(key, known)
        return known


def _with_rest(logprobs: Tensor) -> Tensor:
    return torch.cat([logprobs, rest(logprobs)], dim=1)
