"""The teacher `tinker` against a loopback server of the tiny model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_tinker import opened, serving

from promptbake.interfaces import Model, Teacher
from promptbake.testing import TeacherSuite
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_tinker import tinker_teacher


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerLoopback]:
    with serving(tmp_path_factory.mktemp("model")) as server:
        yield server


class TestTinkerTeacher(TeacherSuite):
    keys = ("TINKER_API_KEY",)

    @pytest.fixture
    def teacher(self) -> Teacher:
        return tinker_teacher()

    @pytest.fixture
    def model(self, server: TinkerLoopback) -> Iterator[Model]:
        with opened(server) as model:
            yield model
