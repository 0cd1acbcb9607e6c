"""The tiny model: no download, no key, the same each time, and a prompt that matters."""

from __future__ import annotations

import string

import pytest
import torch

from promptbake.interfaces import DataProvider, Model
from promptbake.testing import DataProviderSuite
from promptbake.types import Message, Prompt, Span
from promptbake_mock import mock_backend, mock_provider

QUESTION = (Message("user", "How are you?"),)
PROMPT = Prompt("yoda", "Speak like Yoda, you must.")


class TestMockProvider(DataProviderSuite):
    @pytest.fixture
    def provider(self) -> DataProvider:
        return mock_provider()


def next_token(model: Model, system: str | None) -> torch.Tensor:
    prompt = model.renderer.prompt(QUESTION, system)
    (logprobs,) = model.logprobs([Span((*prompt, 1), 1)])
    return logprobs


@pytest.mark.parametrize("name", ["mock", "Qwen/Qwen3-8B"])
def test_the_backend_opens_the_tiny_model_whatever_it_is_called(name: str) -> None:
    backend = mock_backend()
    model = backend.open_model(name)
    assert (backend.name, model.name) == ("mock", "mock")
    assert model.digest == backend.open_model("mock").digest
    assert torch.equal(next_token(model, None), next_token(backend.open_model("mock"), None))


def test_the_prompt_changes_what_the_tiny_model_says() -> None:
    model = mock_backend().open_model("mock")
    base, prompted = next_token(model, None), next_token(model, PROMPT.text)
    assert float((prompted.exp() * (prompted - base)).sum()) > 0.05


def test_the_tiny_model_keeps_to_what_can_be_printed() -> None:
    model = mock_backend().open_model("mock")
    prompt = model.renderer.prompt(QUESTION)
    completions = model.sample(
        [prompt] * 20, max_tokens=40, temperatures=[1.0] * 20, seeds=list(range(20))
    )
    text = "".join(model.renderer.text(completion.tokens) for _, completion in completions)
    printable = [char for char in text if char in string.printable]
    assert len(printable) > 0.95 * len(text) > 400
