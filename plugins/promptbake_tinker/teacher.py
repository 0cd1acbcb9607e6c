"""The teacher `tinker`: the prompted base model on Tinker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.types import Span, TeacherLogprobs
from promptbake_tinker.model import TinkerModel


class TinkerTeacher:
    """One call a conversation, many under way at a time."""

    def targets(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """One `TeacherLogprobs` a span, as it comes."""
        model = open_model()
        if not isinstance(model, TinkerModel):
            raise BakeError(
                "teacher.source = 'tinker': asks the model that train.backend = 'tinker' opens; "
                "with another backend, use teacher.source = 'self'"
            )
        return model.top_k(spans, k=k, draws=draws, seeds=seeds)
