"""A backend: the torch plugin's engine, with a loader of one's own."""

from __future__ import annotations

from promptbake import Backend
from promptbake.testing import tiny_model, tiny_tokenizer
from promptbake_torch import Engine, LoraSettings, TorchBackend, make_engine


def tiny_backend(seed: int) -> Backend:
    """A tiny model with weights from `seed`, whatever `model.name` says."""

    def load(name: str) -> Engine:
        return make_engine(tiny_model(seed), tiny_tokenizer(), "example", digest=f"example-{seed}")

    return TorchBackend("example", load, LoraSettings(), sample_batch=16)
