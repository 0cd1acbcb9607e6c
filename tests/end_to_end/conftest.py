"""What the end-to-end tests share: a prompt in a folder of its own, and one finished run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import promptbake
from endpoint_run import KEY as ENDPOINT_KEY
from endpoint_run import QUERIES
from run_folder import KEY, MOCK, PROMPT, STAGES, Finished
from tinker_run import TinkerRun, Undisturbed, bake_undisturbed, tinker_run

from distribution import Site


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    """A prompt's file in the working folder."""
    file = tmp_path / "pirate.md"
    file.write_text(PROMPT + "\n", "utf-8")
    return file


@pytest.fixture
def endpoint_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The key of a chat endpoint in the environment, and a file of queries."""
    monkeypatch.setenv("OPENAI_API_KEY", ENDPOINT_KEY)
    for name in ("OPENROUTER_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    lines = (f"What is the colour of ship number {i}?\n" for i in range(QUERIES))
    (tmp_path / "queries.txt").write_text("".join(lines))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Profile `mock` as it is, with keys in the environment."""
    folder = tmp_path_factory.mktemp("finished")
    prompt = folder / "pirate.md"
    prompt.write_text(PROMPT + "\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "TINKER_API_KEY", "HF_TOKEN"):
            patch.setenv(name, KEY)
        run, data = folder / "runs" / "pirate", folder / "data"
        results = {}
        for stage in STAGES:
            results[stage] = promptbake(stage, prompt, *MOCK)
            if stage == "data":
                shutil.copytree(run, data)
    return Finished(run, data, results)


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Where a test may install distributions of its own."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(folder)
    return Site(folder)


@pytest.fixture
def own_copy(finished: Finished, prompt: Path) -> Path:
    """A copy of the finished run, for a test that changes it."""
    return shutil.copytree(finished.folder, prompt.parent / "runs" / "pirate")


@pytest.fixture
def with_data(finished: Finished, prompt: Path) -> Path:
    """A copy of the run as it was when its data was complete."""
    return shutil.copytree(finished.data, prompt.parent / "runs" / "pirate")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A bake on a loopback server of Tinker's, to which nothing happens."""
    return bake_undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def on_tinker(undisturbed: Undisturbed, tmp_path: Path) -> Iterator[TinkerRun]:
    """The same data on a server of a test's own, yet to be baked."""
    with tinker_run(tmp_path, undisturbed.model, undisturbed.data) as run:
        yield run
