"""The tiny model: no download, no key, deterministic, and a prompt that matters."""

from __future__ import annotations

import string

import pytest
import torch

from promptbake import Backend, DataProvider, Message, Model, NoBudget, Span
from promptbake.testing import BackendSuite, DataProviderSuite
from promptbake_mock import mock_backend, mock_provider

QUESTION = (Message("user", "How are you?"),)


class TestMockBackend(BackendSuite):
    tolerance = 1e-4
    takes_any_name = True

    @pytest.fixture
    def backend(self) -> Backend:
        return mock_backend()


class TestMockProvider(DataProviderSuite):
    @pytest.fixture
    def provider(self) -> DataProvider:
        return mock_provider()


def open_mock(name: str = "mock") -> Model:
    return mock_backend().open_model(name, NoBudget())


def next_token(model: Model, system: str | None = None) -> torch.Tensor:
    prompt = model.renderer.prompt(QUESTION, system)
    (logprobs,) = model.logprobs([Span((*prompt, 1), 1)])
    return logprobs


@pytest.mark.parametrize("name", ["mock", "Qwen/Qwen3-8B"])
def test_the_backend_opens_the_tiny_model_by_any_name(name: str) -> None:
    model = open_mock(name)
    assert (mock_backend().name, model.name) == ("mock", "mock")
    assert model.digest == open_mock().digest
    assert torch.equal(next_token(model), next_token(open_mock()))


def test_the_prompt_changes_what_the_tiny_model_says() -> None:
    base, prompted = (next_token(open_mock(), s) for s in (None, "Speak like Yoda, you must."))
    assert float((prompted.exp() * (prompted - base)).sum()) > 0.05


def test_the_tiny_model_samples_printable_text() -> None:
    model = open_mock()
    completions = model.sample(
        [model.renderer.prompt(QUESTION)] * 20,
        max_tokens=40,
        temperatures=[1.0] * 20,
        seeds=list(range(20)),
    )
    text = "".join(model.renderer.text(completion.tokens) for _, completion in completions)
    printable = [char for char in text if char in string.printable]
    assert len(printable) > 0.95 * len(text) > 400
