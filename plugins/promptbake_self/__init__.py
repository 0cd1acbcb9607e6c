"""The prompted base model itself, as the data provider and as the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptbake import (
    Conversation,
    CostEstimate,
    DataProvider,
    Factories,
    GenerationJob,
    ModelTeacher,
    Query,
    Teacher,
    estimate_responses,
    hookimpl,
    sample_responses,
)

PROMPTBAKE_API = 2


class SelfProvider:
    """Samples the prompted base model, in batches."""

    def queries(self) -> Sequence[Query]:
        """None of its own."""
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """The base model's cost."""
        return estimate_responses(job)

    def generate(self, job: GenerationJob) -> Iterator[Conversation]:
        """One conversation a request."""
        return sample_responses(job)


def self_provider() -> DataProvider:
    """Sample the prompted base model."""
    return SelfProvider()


def self_teacher() -> Teacher:
    """Score with the prompted base model."""
    return ModelTeacher()


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `self`."""
    return {"self": self_provider}


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `self`."""
    return {"self": self_teacher}
