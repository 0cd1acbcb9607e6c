"""Installs the distribution of spikes, and serves the tiny model by Tinker's protocol."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_bakes import PIRATE, QUERIES, SERVED, Baked, job

import promptbake
from distribution import write_record

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tinker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server in this process, which all tests of a worker share."""
    from promptbake.testing import save_tiny
    from promptbake_loopback.tinker import KEY, TinkerLoopback

    folder = tmp_path_factory.mktemp("tinker")
    save_tiny(folder / "model")
    with (
        pytest.MonkeyPatch.context() as patch,
        TinkerLoopback(str(folder / "model"), state=folder / "state") as server,
    ):
        patch.setenv("TINKER_API_KEY", KEY)
        patch.setenv("TINKER_TELEMETRY", "0")
        patch.setenv(SERVED, server.url)
        patch.setenv(f"{SERVED}_MODEL", server.model)
        yield


@pytest.fixture(autouse=True)
def spikes(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`promptbake_spikes` is installed, and the test works in a folder of its own."""
    if "tinker-local" in request.node.name:
        request.getfixturevalue("tinker_server")
    write_record(tmp_path / "site", "promptbake_spikes", "spikes")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)
    Path("queries.txt").write_text("\n".join(QUERIES))
    Path("questions.txt").write_text("How are you?\nWhat is a tide?\n")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The module of `promptbake new-plugin bag --kind backend` may be imported."""
    from promptbake.cli.scaffold import new_plugin

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(new_plugin("bag", "backend", tmp_path_factory.mktemp("template")))
        yield


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs are kept for the tests that come later."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def baked(spikes: None, kept: Path) -> Baked:
    """The job of `runs/pirate`, which is baked already: once, for the first test that wants it."""

    def run(profile: str, **settings: Any) -> dict[str, Any]:
        given = job(profile, **settings)
        if (kept / profile).exists():
            shutil.copytree(kept / profile, "runs/pirate")
        else:
            promptbake.data(PIRATE, **given)
            promptbake.bake(PIRATE, **given)
            shutil.copytree("runs/pirate", kept / profile)
        return given

    return run
