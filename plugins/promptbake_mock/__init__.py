"""A backend and a provider on a tiny real model: no download, no key, deterministic."""

from __future__ import annotations

from promptbake import Backend, DataProvider, Factories, hookimpl

PROMPTBAKE_API = 2


def mock_backend() -> Backend:
    """Bake the tiny model, whatever `model.name` says."""
    from promptbake_mock.tiny import tiny_backend

    return tiny_backend()


def mock_provider() -> DataProvider:
    """Sample the prompted tiny model, whichever backend trains."""
    from promptbake_mock.tiny import TinyProvider

    return TinyProvider()


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `mock`."""
    return {"mock": mock_backend}


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `mock`."""
    return {"mock": mock_provider}
