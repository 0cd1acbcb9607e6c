"""The base model itself, prompted: as the data provider and as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from promptbake.interfaces import DataProvider, GenerationJob, Model, Teacher
from promptbake.plugins.hookspecs import Factories, hookimpl
from promptbake.types import Conversation, CostEstimate, Query, Span, TeacherLogprobs

PROMPTBAKE_API = 1


class SelfProvider:
    """Samples the prompted base model, in batches."""

    def queries(self) -> Sequence[Query]:
        """None of its own."""
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """What the base model asks for it."""
        from promptbake.dataset.sampling import estimate_cost

        return estimate_cost(job)

    def generate(self, job: GenerationJob) -> Iterator[Conversation]:
        """One conversation a request."""
        from promptbake.dataset.sampling import generate

        return generate(job)


class SelfTeacher:
    """Asks the base model for its top K."""

    def targets(
        self,
        spans: Sequence[Span],
        *,
        k: int,
        draws: int,
        seeds: Sequence[int],
        open_model: Callable[[], Model],
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        """One `TeacherLogprobs` a span."""
        return open_model().top_k(spans, k=k, draws=draws, seeds=seeds)


def self_provider() -> DataProvider:
    """The prompted base model answers the queries."""
    return SelfProvider()


def self_teacher() -> Teacher:
    """The prompted base model is the teacher."""
    return SelfTeacher()


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `self`."""
    return {"self": self_provider}


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `self`."""
    return {"self": self_teacher}
