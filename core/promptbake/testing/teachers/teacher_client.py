"""Asking a teacher under test: what with, and in what form its answers have to come."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from promptbake.interfaces import Model, Teacher
from promptbake.seeds import derive
from promptbake.testing.sample_data import datums, shared_model
from promptbake.testing.suite import Suite
from promptbake.testing.teachers.spans import Reference, plain
from promptbake.types import Datum, Span, TeacherLogprobs

DRAWS = 8
TEMPERATURES = (0.7, 1.3)
DRAWN = ("drawn_ids", "drawn_logprobs", "drawn_importance_weights")
PARTS = ("ids", "logprobs", *DRAWN)


@dataclass(frozen=True)
class Interview:
    """A teacher, with the base model that it may open, and the K that it is asked for."""

    teacher: Teacher
    model: Model
    k: int

    def __call__(
        self,
        spans: Sequence[Span],
        *,
        k: int | None = None,
        draws: int = 0,
        seeds: Sequence[int] | None = None,
    ) -> list[TeacherLogprobs]:
        """One answer a span, in the spans' order; asserts that they can be compared."""
        found = _by_index(self.raw(spans, k=k, draws=draws, seeds=seeds), len(spans))
        return [_comparable(found[index], spans, index) for index in range(len(spans))]

    def raw(
        self,
        spans: Sequence[Span],
        *,
        k: int | None = None,
        draws: int = 0,
        seeds: Sequence[int] | None = None,
        open_model: Callable[[], Model] | None = None,
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """What comes, as it comes."""
        return self.teacher.targets(
            list(spans),
            k=self.k if k is None else k,
            draws=draws,
            seeds=seeds_of(spans) if seeds is None else list(seeds),
            open_model=open_model or (lambda: self.model),
        )


def seeds_of(spans: Sequence[Span], seed: int = 0) -> list[int]:
    """Seeds as the core gives them: 63 bits."""
    return [derive(seed, "draws", number) for number in range(len(spans))]


class TeacherTests(Suite):
    """What the tests of a teacher are done with: see TeacherSuite."""

    tolerance: ClassVar[float] = 1e-3  # nats
    top_k: ClassVar[int] = 6
    draws_itself: ClassVar[bool] = True
    stands_for_the_tail: ClassVar[bool] = True
    asks_base_model: ClassVar[bool] = True

    @pytest.fixture
    def model(self) -> Model:
        """The base model that `open_model` gives."""
        return shared_model()

    @pytest.fixture
    def reference(self) -> Reference:
        """The whole distribution [N, V] at a span's response, in nats."""
        return plain

    @pytest.fixture
    def ask(self, teacher: Teacher, model: Model) -> Interview:
        """Asks the teacher."""
        return Interview(teacher, model, self.top_k)

    @pytest.fixture
    def datums(self, model: Model) -> tuple[Datum, ...]:
        """Conversations with responses of 4 to 23 tokens."""
        return datums(model)

    @pytest.fixture
    def spans(self, datums: Sequence[Datum]) -> list[Span]:
        """What the teacher reads of them."""
        return [datum.teacher for datum in datums]

    @property
    def draws(self) -> int:
        """How many draws it is asked for where they are not what is tested."""
        return DRAWS if self.stands_for_the_tail else 0


def _by_index(
    found: Iterable[tuple[int, TeacherLogprobs]], spans: int
) -> dict[int, TeacherLogprobs]:
    """By the span's index. Asserts that each is there once."""
    answers: dict[int, TeacherLogprobs] = {}
    for given, targets in found:
        index = operator.index(given)
        assert 0 <= index < spans, f"index {index} of {spans} spans: they count from 0"
        assert index not in answers, f"span {index} is answered twice"
        assert isinstance(targets, TeacherLogprobs), (
            f"span {index}: {type(targets).__name__} in the place of promptbake.TeacherLogprobs"
        )
        answers[index] = targets
    missing = [index for index in range(spans) if index not in answers]
    assert not missing, (
        f"no answer to span {', '.join(map(str, missing))} of {spans}: what cannot be answered is "
        "raised as a BakeError, and two spans with the same tokens are two"
    )
    return answers


def _comparable(targets: TeacherLogprobs, spans: Sequence[Span], index: int) -> TeacherLogprobs:
    """On the CPU, in the promised types. Asserts that there is a row for each response token."""
    n = spans[index].n_response
    for name in PARTS:
        shape = tuple(getattr(targets, name).shape)
        assert len(shape) == 2, f"span {index}: {name} has the shape {shape}, expected [N, columns]"
        assert shape[0] == n, (
            f"span {index}: {name} has the shape {shape}, {_rows(shape, n, spans)}"
        )
    ids, logprobs = targets.ids.shape, targets.logprobs.shape
    assert ids == logprobs, f"span {index}: ids {tuple(ids)}, logprobs {tuple(logprobs)}"
    drawn = [tuple(getattr(targets, name).shape) for name in DRAWN]
    assert len(set(drawn)) == 1, (
        f"span {index}: the drawn ids, logprobs and weights have the shapes {drawn}"
    )
    return replace(
        targets,
        **{
            name: getattr(targets, name)
            .detach()
            .cpu()
            .to(torch.long if "ids" in name else torch.float)
            for name in PARTS
        },
    )


def _rows(shape: tuple[int, ...], n: int, spans: Sequence[Span]) -> str:
    expected = f"and the response has {n} tokens"
    if shape[1] == n:
        return f"{expected}: transpose it, positions come first"
    if shape[0] == n - 1:
        return (
            f"{expected}: a row for each of them, the last one too; the row that predicts the "
            "first comes from the prompt's last token"
        )
    whose = [other for other, span in enumerate(spans) if span.n_response == shape[0]]
    if whose:
        return f"{expected}: that fits span {whose[0]}; is the index the span's own?"
    return f"{expected}: one row for each of them"
