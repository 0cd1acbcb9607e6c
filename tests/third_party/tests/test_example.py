"""The plugin `example` by the suites that promptbake's own plugins pass."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import promptbake_example
import pytest

from promptbake import Backend, DataProvider, Evaluator, Loss, Teacher, Tracker
from promptbake.testing import (
    BackendSuite,
    DataProviderSuite,
    EvaluatorSuite,
    LossSuite,
    PluginSuite,
    TeacherSuite,
    TrackerSuite,
    WorkedExample,
)


class TestPlugin(PluginSuite):
    @pytest.fixture
    def plugin(self) -> str:
        return "example"


class TestProvider(DataProviderSuite):
    uses_base_model = True

    @pytest.fixture
    def provider(self) -> DataProvider:
        return promptbake_example.example_provider()


class TestTeacher(TeacherSuite):
    @pytest.fixture
    def teacher(self) -> Teacher:
        return promptbake_example.example_teacher(at_a_time=2)


class TestLoss(LossSuite):
    worked_example = WorkedExample((0.5, 0.5), (0.25, 0.75), nats=0.25 * math.log(3))

    @pytest.fixture
    def loss(self) -> Loss:
        return promptbake_example.example_loss()


class TestBackend(BackendSuite):
    takes_any_name = True

    @pytest.fixture
    def backend(self) -> Backend:
        return promptbake_example.example_backend()


class TestEvaluator(EvaluatorSuite):
    contrasting_answers = ("Polly wants a cracker.", "Polly Polly Polly")

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return promptbake_example.example_evaluator()


class TestTracker(TrackerSuite):
    @pytest.fixture
    def make_tracker(self) -> Callable[[], Tracker]:
        return promptbake_example.example_tracker

    def recorded(self, folder: Path) -> Sequence[Mapping[str, object]]:
        """What was recorded of the run in `folder`."""
        with closing(sqlite3.connect(folder / "example.sqlite")) as database:
            rows = database.execute("SELECT * FROM steps")
            names = [column[0] for column in rows.description]
            return [dict(zip(names, row, strict=True)) for row in rows]
