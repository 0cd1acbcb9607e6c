"""A kill, or a full disk, leaves nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbake.documents.typed import read_json_lines
from promptbake.errors import BakeError
from promptbake.files import (
    JsonLines,
    atomic_folder,
    check_free_space,
    digest_file,
    owned_by,
    write_atomic,
    write_json,
)

lines = st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=8), max_size=2), max_size=5)


def fill(path: Path, values: list[dict[str, Any]]) -> bytes:
    path.unlink(missing_ok=True)
    with JsonLines(path) as file:
        for value in values:
            file.append(value)
    return path.read_bytes()


@given(lines)
def test_lines_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    content = fill(path, values)
    assert read_json_lines(path) == values
    assert content.count(b"\n") == len(values)


@given(lines.filter(bool), st.data())
def test_a_file_that_is_cut_anywhere_keeps_its_whole_lines_and_grows_on(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, str]], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    content = fill(path, values)
    cut = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(cut)
    whole = values[: cut.count(b"\n")]
    assert read_json_lines(path) == whole
    with JsonLines(path) as file:
        assert file.truncated == (not cut.endswith(b"\n") and cut != b"")
        file.append({"next": "line"})
    assert read_json_lines(path) == [*whole, {"next": "line"}]


def test_no_file_holds_no_lines(tmp_path: Path) -> None:
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(BakeError, match=r"data\.jsonl:2: is not JSON"):
        read_json_lines(path)


def test_a_value_that_is_no_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with JsonLines(path) as file:
        file.append({"a": 1})
        with pytest.raises(TypeError):
            file.append({"a": object()})
    assert read_json_lines(path) == [{"a": 1}]


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path: Path) -> None:
    program = """if True:
        import resource, signal, sys
        from pathlib import Path
        from promptbake.files import JsonLines
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with JsonLines(Path(sys.argv[1])) as file:
            file.append({"short": 1})
            try:
                file.append({"long": "x" * 200})
            except OSError as error:
                print(error.errno)
    """
    path = tmp_path / "lines.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=True
    )
    assert int(done.stdout) == errno.EFBIG
    assert path.read_bytes() == b'{"short": 1}\n'


@pytest.mark.parametrize("content", ["Grüße\n", b"\x00\xff"])
def test_a_file_is_written_whole_into_a_new_folder(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "new" / "file"
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "before")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_old_ones_place_when_it_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "old").touch()
    with atomic_folder(path) as new:
        (new / "new").touch()
        assert [entry.name for entry in path.iterdir()] == ["old"]
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_whose_filling_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "old").touch()

    def fill_half() -> None:
        with atomic_folder(path) as new:
            (new / "new").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_half()
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("owner", ["0123456789abcdef", "another"])
def test_what_a_kill_left_half_written_is_deleted_by_its_owner_alone(
    tmp_path: Path, owner: str
) -> None:
    program = """if True:
        import os, sys
        from pathlib import Path
        from promptbake.files import atomic_folder, owned_by, write_atomic
        class Killed(str):
            def encode(self):
                os._exit(9)
        with (
            owned_by(Path(sys.argv[1]), "0123456789abcdef"),
            atomic_folder(Path(sys.argv[1]) / "checkpoints" / "step-000010") as new,
        ):
            (new / "weights").touch()
            write_atomic(new / "inner", Killed())
    """
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == 9
    others = [tmp_path / name for name in (".video.mkv-x.partial", ".curl.partial", "weights")]
    for file in others:
        file.touch()
    left = set(tmp_path.rglob("*")) - {*others, tmp_path / "checkpoints"}
    assert len(left) == 3  # the folder, and two files in it
    with owned_by(tmp_path, owner):
        mine = {*others, tmp_path / "checkpoints"} | (left if owner == "another" else set())
        assert set(tmp_path.rglob("*")) == mine


def test_json_is_written_for_people_too(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"name": "Grüße", "of": [1]})
    assert path.read_text() == '{\n "name": "Grüße",\n "of": [\n  1\n ]\n}\n'
    assert json.loads(path.read_text()) == {"name": "Grüße", "of": [1]}


def test_a_files_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert digest_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_disk_with_too_little_room_is_refused(tmp_path: Path) -> None:
    check_free_space(tmp_path, 1)
    with pytest.raises(BakeError, match="1,000,000,000,000 MB are needed there"):
        check_free_space(tmp_path, 10**18)
