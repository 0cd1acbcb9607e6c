"""The tiny model of promptbake.testing, on the backend that promptbake_torch publishes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from promptbake import (
    Conversation,
    CostEstimate,
    GenerationJob,
    Query,
    estimate_responses,
    sample_responses,
)
from promptbake.testing import tiny_model, tiny_tokenizer
from promptbake_torch import Engine, LoraSettings, TorchBackend, make_engine

NAME = "mock"


def tiny_backend() -> TorchBackend:
    """The torch backend with the tiny model as its only one."""
    return TorchBackend(NAME, _load, LoraSettings(), sample_batch=32)


class TinyProvider:
    """Samples the prompted tiny model."""

    def queries(self) -> Sequence[Query]:
        """None of its own."""
        return ()

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """Free; seconds as measured on the tiny model."""
        return estimate_responses(_with_tiny(job))

    def generate(self, job: GenerationJob) -> Iterator[Conversation]:
        """One conversation a request."""
        return sample_responses(_with_tiny(job))


def _with_tiny(job: GenerationJob) -> GenerationJob:
    return replace(job, open_model=lambda: tiny_backend().open_model(NAME, job.budget))


def _load(name: str) -> Engine:
    return make_engine(tiny_model(), tiny_tokenizer(), NAME, digest="tiny-0")
