"""The base model as its own provider."""

from __future__ import annotations

import pytest

from promptbake.costs import NoBudget
from promptbake.interfaces import DataProvider, GenerationJob
from promptbake.testing import DataProviderSuite
from promptbake.types import GenerationRequest, Message, Prompt, Query
from promptbake_mock.tiny import NAME, tiny_backend
from promptbake_self import self_provider


class TestSelfProvider(DataProviderSuite):
    uses_base_model = True

    @pytest.fixture
    def provider(self) -> DataProvider:
        return self_provider()


def test_a_conversation_tells_how_it_came_to_be() -> None:
    model = tiny_backend().open_model(NAME)
    request = GenerationRequest("1@0.7", Query("1", (Message("user", "Why?"),), "small talk"), 0.7)
    prompt = Prompt("yoda", "Speak like Yoda, you must.")
    job = GenerationJob(prompt, (request,), frozenset(), 6, 0, lambda: model, NoBudget())
    (answer,) = self_provider().generate(job)
    assert answer.meta == {
        "model": NAME,
        "temperature": 0.7,
        "tokens": len(model.renderer.response(answer.response, complete=False)),
        "category": "small talk",
    }
