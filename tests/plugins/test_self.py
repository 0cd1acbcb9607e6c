"""The base model as its own provider and teacher."""

from __future__ import annotations

import pytest
from generation_jobs import job, requests

from promptbake import DataProvider, NoBudget, Teacher
from promptbake.testing import DataProviderSuite, TeacherSuite
from promptbake_mock import mock_backend
from promptbake_self import self_provider, self_teacher


class TestSelfProvider(DataProviderSuite):
    uses_base_model = True

    @pytest.fixture
    def provider(self) -> DataProvider:
        return self_provider()


class TestSelfTeacher(TeacherSuite):
    @pytest.fixture
    def teacher(self) -> Teacher:
        return self_teacher()


def test_a_conversation_has_its_metadata() -> None:
    model = mock_backend().open_model("mock", NoBudget())
    wanted = job(requests("Why?", temperature=0.7), max_tokens=6, open_model=lambda: model)
    (conversation,) = self_provider().generate(wanted)
    assert conversation.meta == {
        "model": "mock",
        "temperature": 0.7,
        "tokens": len(model.renderer.response(conversation.response, complete=False)),
        "category": "small talk",
    }
