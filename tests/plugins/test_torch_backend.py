"""The backend `torch` under the conformance suite, on the tiny model in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptbake.interfaces import Backend
from promptbake.testing import BackendSuite, save_tiny
from promptbake_torch import torch_backend


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_tiny(tmp_path_factory.mktemp("model"), seed) for seed in (0, 1)]


class TestConformance(BackendSuite):
    tolerance = 1e-4

    @pytest.fixture
    def backend(self) -> Backend:
        return torch_backend(device="cpu")

    @pytest.fixture
    def model_name(self, folders: list[Path]) -> str:
        return str(folders[0])

    @pytest.fixture
    def other_model_name(self, folders: list[Path]) -> str:
        return str(folders[1])
