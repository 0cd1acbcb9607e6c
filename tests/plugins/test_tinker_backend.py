"""The backend `tinker` under the conformance suite, on a loopback server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_tinker import serving

from promptbake.costs import Budget
from promptbake.interfaces import Model
from promptbake.testing import BackendSuite
from promptbake_loopback.tinker import TinkerLoopback
from promptbake_tinker.backend import TinkerBackend
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.settings import Settings

PRICES = {"prefill": 1.0, "sample": 2.0, "train": 3.0}


class Closing(TinkerBackend):
    """Ends the sessions of the models that it has opened."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._opened: list[TinkerModel] = []

    def open_model(self, name: str, budget: Budget) -> Model:
        model = super().open_model(name, budget)
        assert isinstance(model, TinkerModel)
        self._opened.append(model)
        return model

    def close(self) -> None:
        for model in self._opened:
            if "service" in vars(model.base):
                model.base.service.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerLoopback]:
    with serving(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture(scope="module")
def backend(server: TinkerLoopback) -> Iterator[TinkerBackend]:
    settings = Settings(base_url=server.url, renderer="chat_template", deadline=60.0, prices=PRICES)
    backend = Closing(settings)
    yield backend
    backend.close()


class TestConformance(BackendSuite):
    paid = True
    scales_adapters = False
    keys = ("TINKER_API_KEY",)

    @pytest.fixture
    def model_name(self, server: TinkerLoopback) -> str:
        return server.model
