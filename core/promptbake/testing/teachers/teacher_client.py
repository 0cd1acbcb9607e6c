"""Calls a teacher under test, and checks the form of its results."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from promptbake.interfaces import Model, Teacher
from promptbake.seeds import derive
from promptbake.testing.sample_data import datums, shared_model
from promptbake.testing.suite import Suite
from promptbake.testing.teachers.spans import Reference, tiny_logprobs
from promptbake.types import Datum, Span, TeacherLogprobs

DRAWS = 8
TEMPERATURES = (0.7, 1.3)
DRAWN = ("drawn_ids", "drawn_logprobs", "drawn_importance_weights")
TENSORS = ("ids", "logprobs", *DRAWN)


@dataclass(frozen=True)
class TeacherClient:
    """A teacher, with the model that it may open and the K that it is asked for.

    `reference` gives the distribution [N, V] at a span's response that is expected, in nats.
    """

    teacher: Teacher
    model: Model
    reference: Reference
    k: int

    def __call__(
        self,
        spans: Sequence[Span],
        *,
        k: int | None = None,
        draws: int = 0,
        seeds: Sequence[int] | None = None,
    ) -> list[TeacherLogprobs]:
        """One result a span, in the spans' order; asserts that they have the right shapes."""
        results: dict[int, TeacherLogprobs] = {}
        for given, result in self.pairs(spans, k=k, draws=draws, seeds=seeds):
            index = operator.index(given)
            assert 0 <= index < len(spans), f"index {index} of {len(spans)} spans: count from 0"
            assert index not in results, f"span {index} is scored twice"
            assert isinstance(result, TeacherLogprobs), (
                f"span {index}: a {type(result).__name__}, expected promptbake.TeacherLogprobs"
            )
            results[index] = result
        missing = [str(index) for index in range(len(spans)) if index not in results]
        assert not missing, (
            f"no result for span {', '.join(missing)} of {len(spans)}: a span that cannot be "
            "scored is a BakeError, and two spans with the same tokens are two"
        )
        return [_checked(results[i], span.n_response, i) for i, span in enumerate(spans)]

    def pairs(
        self,
        spans: Sequence[Span],
        *,
        k: int | None = None,
        draws: int = 0,
        seeds: Sequence[int] | None = None,
        open_model: Callable[[], Model] | None = None,
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """What the teacher yields, unchecked."""
        return self.teacher.score(
            list(spans),
            k=self.k if k is None else k,
            draws=draws,
            seeds=seeds_of(spans) if seeds is None else list(seeds),
            open_model=open_model or (lambda: self.model),
        )


def seeds_of(spans: Sequence[Span]) -> list[int]:
    """Seeds as the core gives them: 63 bits."""
    return [derive(0, "draws", number) for number in range(len(spans))]


class TeacherTests(Suite):
    """The flags and fixtures of TeacherSuite, which documents them."""

    tolerance: ClassVar[float] = 1e-3  # nats
    top_k: ClassVar[int] = 6
    samples_tail: ClassVar[bool] = True
    uses_base_model: ClassVar[bool] = True
    fills_context: ClassVar[bool] = True

    @pytest.fixture
    def model(self) -> Model:
        """The base model that `open_model` gives."""
        return shared_model()

    @pytest.fixture
    def reference(self) -> Reference:
        """The whole distribution [N, V] at a span's response, in nats."""
        return tiny_logprobs

    @pytest.fixture
    def score(self, teacher: Teacher, model: Model, reference: Reference) -> TeacherClient:
        """Calls the teacher."""
        return TeacherClient(teacher, model, reference, self.top_k)

    @pytest.fixture
    def datums(self, model: Model) -> tuple[Datum, ...]:
        """Conversations with responses of 4 to 23 tokens."""
        return datums(model)

    @pytest.fixture
    def spans(self, datums: Sequence[Datum]) -> list[Span]:
        """The conversations as the teacher reads them."""
        return [datum.teacher for datum in datums]

    @property
    def draws(self) -> int:
        """How many draws are requested where they are not what is tested."""
        return DRAWS if self.samples_tail else 0


def _checked(result: TeacherLogprobs, n: int, index: int) -> TeacherLogprobs:
    """On the CPU, as int64 and float32. Asserts that there is a row for each of n tokens."""
    shapes = {name: tuple(getattr(result, name).shape) for name in TENSORS}
    for name, shape in shapes.items():
        assert len(shape) == 2, f"span {index}: {name} has the shape {shape}, expected [N, columns]"
        assert shape[0] == n, (
            f"span {index}: {name} has the shape {shape} and the response {n} tokens: a row for "
            "each; the one that predicts the first token comes from the prompt's last"
        )
    assert shapes["ids"] == shapes["logprobs"], f"span {index}: {shapes}"
    assert len({shapes[name] for name in DRAWN}) == 1, f"span {index}: {shapes}"
    dtypes = {name: torch.long if "ids" in name else torch.float for name in TENSORS}
    tensors = {name: getattr(result, name).detach().cpu().to(dtypes[name]) for name in TENSORS}
    return replace(result, **tensors)
