"""The base model as its own teacher."""

from __future__ import annotations

import pytest

from promptbake.interfaces import Teacher
from promptbake.testing import TeacherSuite
from promptbake_self import self_teacher


class TestSelfTeacher(TeacherSuite):
    @pytest.fixture
    def teacher(self) -> Teacher:
        return self_teacher()
