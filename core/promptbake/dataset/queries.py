"""The queries: built in or from a file, and the split into training and held-out."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from promptbake.dataset.query_files import ask, read_queries
from promptbake.documents.text import shown
from promptbake.errors import BakeError
from promptbake.types import GenerationRequest, Message, Query

BUILTIN = "builtin"
GENERATE = "generate"


def load_queries(
    source: str, builtin: str = "queries.jsonl", column: str | None = None
) -> tuple[Query, ...]:
    """The built-in queries, or those of a file or a dataset; `column` is a table's.

    Raises BakeError for a file that cannot be read, that holds none, or that repeats an id.
    """
    if source == BUILTIN:
        return _packaged(builtin)
    queries = list(read_queries(source, column))
    if not queries:
        raise BakeError(f"{source}: holds no queries")
    seen: set[str] = set()
    for query in queries:
        if query.id in seen:
            raise BakeError(f"{source}: two queries have the id {shown(repr(query.id))}")
        seen.add(query.id)
    return tuple(queries)


def load_questions(source: str, column: str | None = None) -> tuple[Query, ...]:
    """The test questions of the report: ten built-in ones, none of them a query, or a file's."""
    return load_queries(source, "test_questions.jsonl", column)


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


def _packaged(name: str) -> tuple[Query, ...]:
    text = (files("promptbake") / name).read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return tuple(ask(line["id"], line["text"], line["category"]) for line in lines)
