"""A teacher: the prompted base model, some conversations at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from promptbake import Model, Span, TeacherLogprobs


class InSlices:
    """Asks the base model about `at_a_time` spans a call."""

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time

    def targets(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """One `TeacherLogprobs` a span, with its span's index."""
        model = open_model()
        for start in range(0, len(spans), self._at_a_time):
            part = slice(start, start + self._at_a_time)
            for index, found in model.top_k(spans[part], k=k, draws=draws, seeds=seeds[part]):
                yield start + index, found
