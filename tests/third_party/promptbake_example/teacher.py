"""A teacher: the prompted base model, some conversations at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from promptbake import Model, Span, TeacherLogprobs


class InSlices:
    """Scores `at_a_time` spans in each call of the base model."""

    samples_tail = True

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time

    def score(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """Each span's index and its log-probabilities."""
        model = open_model()
        for start in range(0, len(spans), self._at_a_time):
            part = slice(start, start + self._at_a_time)
            for index, logprobs in model.top_k(spans[part], k=k, draws=draws, seeds=seeds[part]):
                yield start + index, logprobs
