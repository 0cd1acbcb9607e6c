"""The store of measurements: what was measured once is read by curve, `verify` and report."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptbake.documents.text import read_bytes
from promptbake.documents.typed import OwnDocument, parse_json
from promptbake.errors import BakeError
from promptbake.files import JsonLines, seal, unseal, write_atomic
from promptbake.types import Completion, KLByConversation, SampledAnswer

BASE_WEIGHTS = ""  # of the base model, beside the identity of an adapter


class MeasurementStore:
    """Lines of a JSONL file, each with the digest of what it depends on, and a checksum.

    What a measurement depends on is in no line: only in the key's hash. A line that is not as it
    was written is removed, said, and measured again where it is needed.

    Args:
        path: The file, which may be missing; None keeps all in memory.
        say: Shows a line to the user.
        anew: Read nothing: everything is measured again.
        depends_on: What every measurement depends on, such as the model's digest.
    """

    def __init__(
        self,
        path: Path | None,
        say: Callable[[str], None],
        *,
        anew: bool = False,
        **depends_on: object,
    ) -> None:
        self._path, self._depends_on = path, depends_on
        entries = [] if path is None else _read(path, say)
        self._entries = {entry.key: entry for entry in entries if not anew}

    def key(self, **depends_on: object) -> str:
        """What stands for everything that a measurement depends on: 32 hex digits."""
        text = json.dumps([self._depends_on, depends_on], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def kl(self, key: str) -> KLByConversation | None:
        """A KL that was measured before, in nats."""
        return self._entries[key].kl if key in self._entries else None

    def answer(self, key: str) -> SampledAnswer | None:
        """A response that was sampled before."""
        entry = self._entries.get(key)
        if entry is None or entry.answer is None:
            return None
        return SampledAnswer(entry.answer, entry.tokens, entry.complete)

    def completion(self, key: str) -> Completion | None:
        """A response that was sampled before, as tokens."""
        return self._entries[key].completion if key in self._entries else None

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """Numbers that were measured before."""
        return self._entries[key].numbers if key in self._entries else None

    def put_kl(self, key: str, kl: KLByConversation) -> None:
        """Store a KL, unless it is not finite."""
        if all(map(math.isfinite, kl.nats)):
            self._put([{"key": key, "kl": vars(kl)}])

    def put_answers(self, answers: Iterable[tuple[str, SampledAnswer]]) -> None:
        """Store responses with their keys, each when it arrives."""
        self._put(
            {"key": key, "answer": each.text, "tokens": each.tokens, "complete": each.complete}
            for key, each in answers
        )

    def put_completions(self, completions: Iterable[tuple[str, Completion]]) -> None:
        """Store responses, as tokens, with their keys, each when it arrives."""
        self._put({"key": key, "completion": vars(each)} for key, each in completions)

    def put_numbers(self, key: str, numbers: Sequence[float]) -> None:
        """Store numbers, unless one of them is not finite."""
        if all(map(math.isfinite, numbers)):
            self._put([{"key": key, "numbers": list(numbers)}])

    def _put(self, values: Iterable[Mapping[str, Any]]) -> None:
        with nullcontext() if self._path is None else JsonLines(self._path) as file:
            for value in values:
                line = seal(value)
                if file is not None:
                    file.append(line)
                self._entries[line["key"]] = parse_json(_Entry, json.dumps(line), str(self._path))


class _Entry(OwnDocument):
    """A line."""

    key: str
    kl: KLByConversation | None = None
    answer: str | None = None
    tokens: int | None = None  # of the answer
    complete: bool | None = None
    completion: Completion | None = None
    numbers: tuple[float, ...] | None = None
    check: str


def _read(path: Path, say: Callable[[str], None]) -> list[_Entry]:
    """The whole lines of the file; those that are damaged are removed from it, and counted."""
    content = read_bytes(path) if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    entries = {line: _entry(line) for line in lines}
    if damaged := list(entries.values()).count(None):
        say(f"{path}: {damaged} measurements are damaged, and made again where needed")
        write_atomic(path, b"".join(line for line, entry in entries.items() if entry))
    return [entry for entry in entries.values() if entry is not None]


def _entry(line: bytes) -> _Entry | None:
    """What a line holds; None where it is damaged."""
    try:
        entry, content = parse_json(_Entry, line, ""), parse_json(dict[str, Any], line, "")
    except BakeError:
        return None
    return entry if unseal(content) else None


@dataclass(frozen=True)
class StoredLine:
    """A line of a store of measurements, as it is read by who changes nothing."""

    number: int  # from 1
    as_written: bool
    kl: KLByConversation | None
    answer: str | None


def read_stored(path: Path) -> list[StoredLine]:
    """The lines of a store, the damaged ones among them; none where there is no file."""
    content = read_bytes(path) if path.exists() else b""
    lines = enumerate(content.splitlines(), start=1)
    return [_stored_line(number, line) for number, line in lines]


def _stored_line(number: int, line: bytes) -> StoredLine:
    try:
        entry = parse_json(_Entry, line, "")
    except BakeError:
        return StoredLine(number, as_written=False, kl=None, answer=None)
    return StoredLine(number, _entry(line) is not None, entry.kl, entry.answer)
