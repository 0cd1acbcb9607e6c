"""The backend and the teacher `tinker` under the conformance suites, on a loopback server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_tinker import opened

from promptbake.interfaces import Model, Teacher
from promptbake.testing import BackendSuite, TeacherSuite
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_tinker import TinkerBackend, tinker_teacher
from promptbake_tinker.service import close_all
from promptbake_tinker.settings import Settings

PRICES = {"prefill": 1.0, "sample": 2.0, "train": 3.0}


@pytest.fixture(scope="module")
def backend(server: TinkerLoopback) -> Iterator[TinkerBackend]:
    yield TinkerBackend(
        Settings(base_url=server.url, renderer="chat_template", deadline=60.0, prices=PRICES)
    )
    close_all()


class TestTinkerBackend(BackendSuite):
    paid = True
    scales_adapters = False
    keys = ("TINKER_API_KEY",)

    @pytest.fixture
    def model_name(self, server: TinkerLoopback) -> str:
        return server.model


class TestTinkerTeacher(TeacherSuite):
    keys = ("TINKER_API_KEY",)

    @pytest.fixture
    def teacher(self) -> Teacher:
        return tinker_teacher()

    @pytest.fixture
    def model(self, server: TinkerLoopback) -> Iterator[Model]:
        with opened(server) as model:
            yield model
