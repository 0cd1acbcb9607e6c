"""A user's file as bytes or as text."""

from __future__ import annotations

from pathlib import Path

from promptbake.errors import BakeError
from promptbake.redaction import redact

MAX_BYTES = 2**30  # of a file
LONGEST_PATH = 4096  # characters of a name that is shown whole


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """A file's content. Raises BakeError where it cannot be read, or is larger."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        name = shown(str(path), LONGEST_PATH)
        raise BakeError(f"{name}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL byte or half a character in the name
        raise BakeError(f"{shown(str(path))}: cannot be read: {error}") from None
    if len(content) > max_bytes:
        raise BakeError(f"{path}: is larger than {max_bytes / 1e6:,.0f} MB; give a smaller file")
    return content


def read_text(path: Path) -> str:
    """A user's text file. Raises BakeError for what cannot be read as UTF-8 text."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BakeError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise BakeError(f"{path}: is not text: it holds a NUL byte at {text.index(chr(0))}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shown(value: object, most: int = 80) -> str:
    """A value for a message: redacted, on one line, printable, and not long."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    text = redact(text)  # before it is cut
    return text if len(text) <= most else f"{text[:most]}..."
