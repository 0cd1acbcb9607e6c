"""The queries: built in or from a file, and the split into training and held-out."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from pathlib import Path

from promptbake.dataset.conversations import check_messages, read_objects
from promptbake.errors import BakeError
from promptbake.files import read_text
from promptbake.types import GenerationRequest, Message, Query

BUILTIN = "builtin"
GENERATE = "generate"


def load_queries(
    source: str, builtin: str = "queries.jsonl", column: str | None = None
) -> tuple[Query, ...]:
    """The built-in queries, or those of a file.

    JSONL with "messages" or "text" in each line, CSV with the queries in a named column, or lines
    of text. Raises BakeError for a file that cannot be read, that holds none, or that repeats
    an id.
    """
    if source == BUILTIN:
        return _packaged(builtin)
    path = Path(source)
    if path.suffix == ".jsonl":
        queries = [_query(line, f"{path}:{number}", number) for number, line in read_objects(path)]
    elif path.suffix == ".csv":
        queries = _rows(path, column)
    else:
        lines = enumerate(read_text(path).split("\n"), start=1)
        queries = [ask(f"line-{number:05}", text) for number, text in lines if text.strip()]
    if not queries:
        raise BakeError(f"{path}: holds no queries")
    seen: set[str] = set()
    for query in queries:
        if query.id in seen:
            raise BakeError(f"{path}: two queries have the id {query.id!r}")
        seen.add(query.id)
    return tuple(queries)


def load_questions(source: str) -> tuple[Query, ...]:
    """The test questions of the report: ten built-in ones, none of them a query, or a file's."""
    return load_queries(source, builtin="test_questions.jsonl")


@dataclass(frozen=True)
class Split:
    """Queries to train on, and queries that nothing is ever trained on."""

    training: tuple[Query, ...]
    held_out: tuple[Query, ...]


def split(queries: Sequence[Query], held_out: int, seed: int) -> Split:
    """Hold out some queries, drawn by the seed. Raises BakeError where too few are left.

    Two queries with the same words stay on the same side.
    """
    groups: dict[tuple[Message, ...], list[Query]] = {}
    for query in queries:
        groups.setdefault(query.messages, []).append(query)
    if not 0 < held_out < len(groups):
        raise BakeError(
            f"data.held_out = {held_out}: there are {len(groups)} different queries, and at least "
            "one must be held out and one be left to train on"
        )
    kept_out = set(random.Random(f"split:{seed}").sample(list(groups), held_out))
    return Split(
        tuple(query for query in queries if query.messages not in kept_out),
        tuple(query for query in queries if query.messages in kept_out),
    )


def requests_for(split: Split, temperatures: Sequence[float]) -> tuple[GenerationRequest, ...]:
    """Every response to generate: training queries at each temperature, held-out ones at 1.

    Held-out KL is an expectation over the prompted model's own responses (Eq. 3), hence the 1.
    """
    training = [
        GenerationRequest(f"{query.id}@{temperature}", query, temperature)
        for temperature in dict.fromkeys(temperatures)
        for query in split.training
    ]
    return (
        *training,
        *(GenerationRequest(f"{query.id}@held-out", query, 1.0) for query in split.held_out),
    )


def digest(queries: Sequence[Query]) -> str:
    """SHA-256 over the ids and the words."""
    text = json.dumps([[q.id, [[m.role, m.content] for m in q.messages]] for q in queries])
    return hashlib.sha256(text.encode()).hexdigest()


def _rows(path: Path, column: str | None) -> list[Query]:
    rows = csv.DictReader(StringIO(read_text(path), newline=""))
    names = list(rows.fieldnames or ())
    if column not in names:
        raise BakeError(
            f"{path}: CSV: set data.column to one of: {', '.join(names) or 'none'}; found "
            f"{column!r}"
        )
    return [
        ask(f"row-{number:05}", row[column])
        for number, row in enumerate(rows, start=1)
        if (row[column] or "").strip()
    ]


def _packaged(name: str) -> tuple[Query, ...]:
    text = (files("promptbake") / name).read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return tuple(ask(line["id"], line["text"], line["category"]) for line in lines)


def ask(id: str, text: str, category: str = "") -> Query:  # noqa: A002
    """A query of one turn."""
    return Query(id, (Message("user", text.strip()),), category)


def _query(line: dict[str, object], where: str, number: int) -> Query:
    if "text" in line and "messages" not in line:
        line = line | {"messages": [{"role": "user", "content": line["text"]}]}
    messages = check_messages(line, where)
    if messages[-1].role != "user":
        raise BakeError(
            f"{where}: a query ends with the user's turn; for conversations that are answered "
            "already, use data.provider=files"
        )
    return Query(str(line.get("id", f"line-{number:05}")), messages, str(line.get("category", "")))
