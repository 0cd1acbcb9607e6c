"""The files of a verified run, each beside what it was, or what it is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from promptbake.distill.checkpoints import digests
from promptbake.distill.measurement_store import StoredLine
from promptbake.documents.text import read_bytes
from promptbake.report import card, junit, page
from promptbake.report.differences import Difference, differences
from promptbake.report.evidence import Evidence, line_digests
from promptbake.report.outputs import has_own_card
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.run_folder import Run

AS_WRITTEN = "as it was written"


def changed_files(
    run: Run, evidence: Evidence, lines: Sequence[StoredLine]
) -> Iterator[Difference]:
    """Lines, records and weights that are not as they were when `verify` ran."""
    for line in lines:
        if not line.as_written:
            where = f"{run.measurements.name}:{line.number}"
            yield Difference(where, "a line with another check", AS_WRITTEN)
    for name, now in line_digests(run).items():
        before = evidence.lines.get(name, [])
        if len(now) != len(before):
            yield Difference.between(f"{name}: lines", len(now), len(before))
            continue
        for number, (digest, recorded) in enumerate(zip(now, before, strict=True), start=1):
            if digest != recorded:
                yield Difference(f"{name}:{number}: SHA-256", digest, recorded)
    record = json.loads(json.dumps(run.record))
    yield from differences(record, evidence.record, run.record_file.name)
    yield from _changed_weights(run, evidence)


def _changed_weights(run: Run, evidence: Evidence) -> Iterator[Difference]:
    record: Any = evidence.record
    recorded: dict[str, str] = record.get("stages", {}).get("bake", {}).get("adapter", {})
    now = digests(run.adapter) if run.adapter.is_dir() else {}
    for name, digest in recorded.items():
        if now.get(name) != digest:
            found = now.get(name, "nothing")
            yield Difference(f"{run.adapter.name}/{name}: SHA-256", found, digest)


def changed_renderings(run: Run, evidence: Evidence, result: VerifyResult) -> Iterator[Difference]:
    """The page, the JUnit XML and the card, each beside what is made of the recomputed result."""
    yield from _first_difference(run.report, run.path, page.render(run, result))
    yield from _first_difference(run.junit, run.path, junit.render(result))
    if has_own_card(run):
        yield from _first_difference(run.card, run.path, card.render(result, evidence))


def _first_difference(file: Path, folder: Path, expected: str) -> Iterator[Difference]:
    """The first line that differs; the rest may follow from it."""
    name = file.relative_to(folder).as_posix()
    if not file.exists():
        yield Difference(name, "nothing", "a file")
        return
    now, before = (
        text.split("\n") for text in (read_bytes(file).decode("utf-8", "replace"), expected)
    )
    for number, (line, other) in enumerate(zip(now, before, strict=False), start=1):
        if line != other:
            yield Difference.between(f"{name}:{number}", *_around(line, other))
            return
    if len(now) != len(before):
        yield Difference.between(f"{name}: lines", len(now), len(before))


def _around(line: str, other: str) -> tuple[str, str]:
    """Two texts from a little before the first character that differs."""
    pairs = enumerate(zip(line, other, strict=False))
    first = next((at for at, (a, b) in pairs if a != b), min(len(line), len(other)))
    start = max(0, first - 20)
    return line[start : first + 40], other[start : first + 40]
