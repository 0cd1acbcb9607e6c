"""The tinker plugin against a loopback server, beside the torch backend on the same model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_openai import PROMPT, datums

from promptbake.costs import Budget, NoBudget
from promptbake.dataset.alignment import align_all
from promptbake.dataset.queries import load_queries, requests_for, split
from promptbake.dataset.sampling import sample_responses
from promptbake.interfaces import GenerationJob
from promptbake.testing.tiny import save_tiny
from promptbake.types import BakeTarget, Datum, Example, LossSupport
from promptbake_loopback.tinker import KEY, TinkerLoopback
from promptbake_tinker.base import Base
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.settings import Settings
from promptbake_torch.model import TorchModel

TARGETS = (BakeTarget("", PROMPT),)


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[TinkerLoopback]:
    """A server of the tiny model, which it offers by the folder that it is in."""
    model = folder / "model"
    if not model.exists():
        save_tiny(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_API_KEY", KEY)
        patch.setenv("TINKER_TELEMETRY", "0")
        patch.delenv("TINKER_BASE_URL", raising=False)
        with TinkerLoopback(str(model), state=folder / "state", **options) as server:
            yield server


@contextmanager
def opened(
    server: TinkerLoopback, budget: Budget | None = None, **settings: Any
) -> Iterator[TinkerModel]:
    """The base model that the server offers."""
    chosen = {"base_url": server.url, "renderer": "chat_template", "deadline": 60.0} | settings
    model = TinkerModel(Base(server.model, Settings(**chosen), budget or NoBudget()))
    yield model
    if "service" in vars(model.base):
        model.base.service.close()


def random_support(n: int, k: int, seed: int) -> LossSupport:
    """K tokens a position with probabilities that leave something for the tail."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(256, generator=generator)[:k] for _ in range(n)])
    logprobs = (torch.randn(n, k + 3, generator=generator)).log_softmax(dim=1)[:, :k]
    return LossSupport(ids, logprobs.sort(dim=1, descending=True).values, torch.ones(n, k))


def examples(model: Any, k: int = 5) -> list[Example]:
    """The conversations with made-up teachers."""
    return [
        Example(datum, random_support(datum.n_response, k, seed=number))
        for number, datum in enumerate(datums(model))
    ]


@dataclass(frozen=True)
class Material:
    """Real conversations of the prompted tiny model."""

    training: tuple[Datum, ...]
    held_out: tuple[Datum, ...]


def material(model: TorchModel, max_tokens: int = 24) -> Material:
    """One response to each of 50 built-in queries, ten queries held out."""
    parts = split(load_queries("builtin")[:50], held_out=10, seed=0)
    requests = requests_for(parts, [1.0])
    job = GenerationJob(PROMPT, requests, frozenset(), max_tokens, 0, lambda: model, NoBudget())
    kept_out = {query.id for query in parts.held_out}
    conversations = list(sample_responses(job))
    return Material(
        align_all([one for one in conversations if one.query_id not in kept_out], TARGETS, model),
        align_all([one for one in conversations if one.query_id in kept_out], TARGETS, model),
    )
