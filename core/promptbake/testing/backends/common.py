"""What the tests of a backend share: flags, the base model, and the rows it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from promptbake.costs import NoBudget
from promptbake.errors import BakeError
from promptbake.interfaces import Backend, Model
from promptbake.seeds import derive
from promptbake.testing.sample_data import TALKS, datums
from promptbake.testing.suite import Suite
from promptbake.types import Span, TeacherLogprobs, TokenIds

OPENED = pytest.StashKey[list[tuple[Backend, Model]]]()  # the last backend, and its base model


class BackendTests(Suite):
    """The flags and the fixtures of `BackendSuite`."""

    tolerance: ClassVar[float] = 1e-3
    lr: ClassVar[float] = 1e-2
    paid: ClassVar[bool] = False
    exports: ClassVar[bool] = True
    scales_adapters: ClassVar[bool] = True
    scales_exports: ClassVar[bool] = True
    starts_from_checkpoint: ClassVar[bool] = True
    takes_any_name: ClassVar[bool] = False
    other_model_name: Any = None  # a fixture where there is another model

    @pytest.fixture
    def model_name(self) -> str:
        """The model that is opened."""
        return "tiny"

    @pytest.fixture
    def base(self, backend: Backend, model_name: str, request: pytest.FixtureRequest) -> Model:
        """The base model: the same one for as long as `backend` is the same object."""
        suite: pytest.Class = request.node.getparent(pytest.Class)
        opened = suite.stash.setdefault(OPENED, [])
        if not opened or opened[0][0] is not backend:
            opened[:] = [(backend, backend.open_model(model_name, NoBudget()))]
            suite.addfinalizer(opened.clear)
        return opened[0][1]

    def _check_same(self, logprobs: Tensor, expected: Tensor, hint: str) -> None:
        """Refuse log-probabilities that differ by more than rounding."""
        assert logprobs.shape == expected.shape, (
            f"{tuple(logprobs.shape)} where {tuple(expected.shape)} was expected: {hint}"
        )
        nats = (logprobs.double() - expected.double()).abs().max().item()
        assert nats <= self.tolerance, (
            f"log-probabilities that should be the same are up to {nats:.3g} nats apart, and "
            f"`tolerance` is {self.tolerance:g}: {hint}"
        )


def response_spans(model: Model) -> list[Span]:
    """Responses of different lengths, without the prompt and behind it."""
    return [each.student for each in datums(model)] + [each.teacher for each in datums(model)]


def prompts(model: Model) -> list[TokenIds]:
    """The conversations up to where the assistant starts to speak, without the prompt."""
    return [datum.student_ids[: -datum.n_response] for datum in datums(model)]


def known_tokens(model: Model) -> list[int]:
    """Tokens that the model has: those of the conversations."""
    return sorted({token for datum in datums(model) for token in datum.teacher_ids})


def some_ids(model: Model, spans: Sequence[Span], k: int, seed: int = 0) -> list[Tensor]:
    """K different tokens at each response position, [N, K] for each span."""
    pool = torch.tensor(known_tokens(model))
    generator = torch.Generator().manual_seed(seed)

    def row() -> Tensor:
        return pool[torch.randperm(len(pool), generator=generator)[:k]]

    return [torch.stack([row() for _ in range(span.n_response)]) for span in spans]


def score(model: Model, spans: Sequence[Span], ids: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Log-probabilities [N, K] of the ids; of the whole vocabulary [N, V] without any."""
    return [logprobs.cpu() for logprobs in model.logprobs(spans, ids)]


def top_k(
    model: Model, spans: Sequence[Span], k: int, draws: int = 0, seeds: Sequence[int] = ()
) -> dict[int, TeacherLogprobs]:
    """The top K and the draws, by the index that came with them."""
    results = model.top_k(spans, k=k, draws=draws, seeds=seeds or some_seeds(len(spans)))
    return {
        index: TeacherLogprobs(**{name: part.cpu() for name, part in vars(each).items()})
        for index, each in results
    }


def some_seeds(count: int, of: int = 0) -> list[int]:
    """Seeds as the core makes them, of 63 bits."""
    return [derive(of, "response", row) for row in range(count)]


def filler(model: Model, length: int) -> TokenIds:
    """So many tokens of talk."""
    talk = model.renderer.response(" ".join(TALKS.values()), complete=False)
    return (talk * (length // len(talk) + 1))[:length]


def refuses(attempt: Callable[[], object], what: str) -> bool:
    """Whether it raises BakeError, the one error by which a backend may refuse."""
    try:
        attempt()
    except BakeError:
        return True
    except Exception as error:
        raise AssertionError(f"{what}: it raises {error!r}, make that a BakeError") from error
    return False
