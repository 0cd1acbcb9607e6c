"""The proof's measure: how far an arm is from the prompted model, on held-out responses."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from promptbake.distill.objective import full_kl, rest
from promptbake.interfaces import Model
from promptbake.types import Datum, Span, TeacherLogprobs

RESAMPLES = 2000
KEEP_BYTES = 2**30
CHUNK = 4  # datums that a model is asked about at a time, where each answer is the vocabulary


@dataclass(frozen=True)
class KLByConversation:
    """KL(prompted || arm), summed over each datum's response tokens."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def per_token(self) -> float:
        """Nats per response token."""
        return sum(self.nats) / sum(self.tokens)


class HeldOutKL:
    """The prompted model's distributions at held-out responses, to hold models against.

    Over the whole vocabulary, which the teacher is asked for (`kind` is `full`); or, where
    `targets` are given, over their top K with the rest in one bucket, a lower bound
    (`top_k_bucket`). What the teacher says is kept while it is under `keep_bytes`, and asked for
    again at each use where it is larger.
    """

    def __init__(
        self,
        teacher: Model,
        datums: Sequence[Datum],
        targets: Sequence[TeacherLogprobs] | None = None,
        keep_bytes: int = KEEP_BYTES,
    ) -> None:
        self.kind = "full" if targets is None else "top_k_bucket"
        self._teacher, self._datums, self._targets = teacher, datums, targets
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
        pairs = zip(self._datums, self._references(), strict=True)
        size = CHUNK if self._targets is None else len(self._datums)
        while chunk := list(islice(pairs, size)):
            spans = [side(datum) for datum, _ in chunk]
            ids = [reference.ids for _, reference in chunk if reference.ids is not None]
            students = model.logprobs(spans, ids or None)
            for (_, reference), student in zip(chunk, students, strict=True):
                arm = _with_rest(student) if ids else student
                nats.append(float(full_kl(reference.logprobs, arm).sum()))
        return KLByConversation(tuple(nats), tuple(datum.n_response for datum in self._datums))

    def _references(self) -> Iterator[_Reference]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[_Reference] = []
        size = 0
        for reference in self._ask():
            size += reference.logprobs.nbytes
            if size <= self._keep_bytes:
                kept.append(reference)
            yield reference
        if size <= self._keep_bytes:
            self._kept = kept

    def _ask(self) -> Iterator[_Reference]:
        if self._targets is not None:
            for found in self._targets:
                yield _Reference(found.ids, _with_rest(found.logprobs))
            return
        for logprobs in self._teacher.logprobs([datum.teacher for datum in self._datums]):
            yield _Reference(None, logprobs)


@dataclass(frozen=True, eq=False)
class _Reference:
    ids: Tensor | None  # int64 [N, K], or None for the whole vocabulary
    logprobs: Tensor  # float32 [N, V], or [N, K + 1] with the rest in the last column


def gap_closed(base: KLByConversation, baked: KLByConversation) -> float:
    """1 - KL(prompted || baked) / KL(prompted || base): 0 is no bake, 1 is the prompt itself."""
    return 1 - baked.per_token / base.per_token


def gap_closed_ci95(
    base: KLByConversation, baked: KLByConversation, groups: Sequence[str], seed: int
) -> tuple[float, float]:
    """A 95 % percentile bootstrap interval of `gap_closed`, over the queries.

    `groups` gives each datum's query: the responses to one query are drawn together.
    """
    totals: dict[str, list[float]] = {}
    for group, before, after in zip(groups, base.nats, baked.nats, strict=True):
        total = totals.setdefault(group, [0.0, 0.0])
        total[0] += before
        total[1] += after
    pairs, generator = list(totals.values()), random.Random(f"bootstrap:{seed}")

    def resampled() -> Iterator[float]:
        while True:
            drawn = generator.choices(pairs, k=len(pairs))
            yield 1 - sum(pair[1] for pair in drawn) / sum(pair[0] for pair in drawn)

    gaps = sorted(islice(resampled(), RESAMPLES))
    return gaps[round(0.025 * RESAMPLES)], gaps[round(0.975 * RESAMPLES) - 1]


def _with_rest(logprobs: Tensor) -> Tensor:
    return torch.cat([logprobs, rest(logprobs)], dim=1)
