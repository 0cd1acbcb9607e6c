"""The conformance suite for teachers."""

from __future__ import annotations

from promptbake.testing.suite import Suite


class TeacherSuite(Suite):
    """Fixture `teacher`."""
