"""Writing files so that a kill, or a full disk, leaves nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from promptbake.errors import BakeError

PARTIAL = ".partial"  # the ending of what is not complete yet
SEAL = "check"  # the key of a line's checksum
_owners: dict[Path, str] = {}  # by the folders in which stages of this process work: the run's id


@contextmanager
def owned_by(folder: Path, owner: str) -> Iterator[None]:
    """Name what is not complete yet below a folder after its owner, so that a kill's is known.

    What an earlier kill of the same owner left there is deleted first, and nothing else is.
    """
    _delete_partial(folder, owner)
    _owners[folder.resolve()] = owner
    try:
        yield
    finally:
        _owners.pop(folder.resolve(), None)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing: a temporary file beside it, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=PARTIAL, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=PARTIAL, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _prefix(path: Path) -> str:
    parents = path.parent.resolve()
    owner = next((_owners[each] for each in (parents, *parents.parents) if each in _owners), "")
    return f".{path.name}-{owner}-" if owner else f".{path.name}-"


def _delete_partial(folder: Path, owner: str) -> None:
    for path in sorted(folder.rglob(f".*-{owner}-*{PARTIAL}"), reverse=True):  # innermost first
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def cache_folder() -> Path:
    """The folder for what can be recreated: PROMPTBAKE_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("PROMPTBAKE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptbake"


def check_free_space(folder: Path, needed: int) -> None:
    """Raise BakeError where a folder's disk has fewer than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BakeError(
            f"{folder}: {needed / 1e6:,.0f} MB are needed there, and {free / 1e6:,.0f} MB are free"
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, indented, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with its checksum, which tells later whether it is still what was written."""
    return {**value, SEAL: _checksum(value)}


def unseal(value: dict[str, Any]) -> bool:
    """Take the checksum out of a value that was read; False where it is not the value's.

    A value without one, such as a line that was edited by hand, is taken as it is.
    """
    seal = value.pop(SEAL, None)
    return seal is None or seal == _checksum(value)


def _checksum(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class JsonLines:
    """A JSONL file that grows line by line and never keeps an incomplete line.

    A last line without its newline, which a kill leaves, is cut off on opening (`truncated` counts
    it); a line that could not be written whole is removed before the error is raised.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        content, self.truncated = _whole_lines(path)
        if self.truncated:
            self._file.truncate(len(content))

    def append(self, value: Mapping[str, Any]) -> None:
        """Add one line and hand it to the operating system."""
        line = memoryview((json.dumps(value, ensure_ascii=False) + "\n").encode())
        start = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError:
            with suppress(OSError):  # the next reader drops an incomplete line, too
                self._file.truncate(start)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _whole_lines(path: Path) -> tuple[bytes, int]:
    content = path.read_bytes() if path.is_file() else b""
    whole = content.rfind(b"\n") + 1
    return content[:whole], int(whole < len(content))
