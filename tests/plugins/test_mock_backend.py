"""The backend `mock` under the conformance suite."""

from __future__ import annotations

import pytest

from promptbake.interfaces import Backend
from promptbake.testing import BackendSuite
from promptbake_mock import mock_backend


class TestConformance(BackendSuite):
    tolerance = 1e-4
    takes_any_name = True

    @pytest.fixture
    def backend(self) -> Backend:
        return mock_backend()
