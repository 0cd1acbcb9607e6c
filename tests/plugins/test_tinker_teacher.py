"""The teacher `tinker` against a loopback server of the tiny model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_tinker import datums, opened, serving, torch_twin

from promptbake.errors import BakeError
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


class TestTinkerTeacherWithoutDraws(TestTinkerTeacher):
    """Of a service that draws nothing at the positions of a prompt."""

    samples_tail = False

    @pytest.fixture
    def model(self, server: TinkerLoopback) -> Iterator[Model]:
        with opened(server) as model:
            model.base.drawn_by_service = False
            yield model


def test_it_wants_a_model_on_tinker() -> None:
    twin = torch_twin()
    span = datums(twin)[0].teacher
    with pytest.raises(BakeError, match=r"use teacher\.source = 'self'"):
        tinker_teacher().targets([span], k=3, draws=1, seeds=[1], open_model=lambda: twin)
