"""A teacher that is the model itself: it scores the spans of the model that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from promptbake.interfaces import Model
from promptbake.types import Span, TeacherLogprobs


class ModelTeacher:
    """The prompted base model, on whichever backend opened it, or a baked one.

    The model that samples the data may score on the way in its place, so no subclass scores in
    another way.
    """

    samples_tail = True

    def score(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """Each span's index and its log-probabilities, as they are ready."""
        return open_model().top_k(spans, k=k, draws=draws, seeds=seeds)
