"""A data provider that reads conversations, or queries, from a JSONL file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from promptbake import (
    NO_COST,
    BakeError,
    Conversation,
    CostEstimate,
    DataProvider,
    Document,
    Factories,
    GenerationJob,
    Message,
    Query,
    check_messages,
    estimate_responses,
    hookimpl,
    read_lines,
    sample_responses,
)

PROMPTBAKE_API = 2


class _Line(Document):
    id: str | int | None = None
    messages: list[Any] | None = None
    complete: bool = True


class FilesProvider:
    """Conversations and queries of a file.

    A line that ends with the assistant's turn is a conversation, one that ends with the user's a
    query, which the prompted base model answers.
    """

    def __init__(self, path: Path) -> None:
        self._conversations: list[Conversation] = []
        self._queries: dict[tuple[Message, ...], Query] = {}
        self._without_response: set[str] = set()
        ids: set[str] = set()
        for number, line in read_lines(_Line, path):
            where = f"{path}:{number}"
            messages = check_messages({"messages": line.messages}, where)
            id_ = f"line-{number:06}" if line.id is None else str(line.id)
            if id_ in ids:
                raise BakeError(f"{where}: an earlier line has the id {id_!r}, too")
            ids.add(id_)
            has_response = messages[-1].role == "assistant"
            turns = messages[:-1] if has_response else messages
            query = self._queries.setdefault(turns, Query(f"q-{id_}", turns))
            if has_response:
                meta = {"source": path.name}
                conversation = Conversation(id_, query.id, messages, line.complete, meta)
                self._conversations.append(conversation)
            else:
                self._without_response.add(query.id)
        if not ids:
            raise BakeError(f"{path}: holds no conversations")

    def queries(self) -> Sequence[Query]:
        """The file's queries, those of its conversations among them."""
        return tuple(self._queries.values())

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """Nothing for the file's conversations; for its queries, the base model's cost."""
        sampling = self._sampling(job)
        return estimate_responses(sampling) if sampling.requests else NO_COST

    def generate(self, job: GenerationJob) -> Iterator[Conversation]:
        """The file's conversations, then the model's responses to the file's queries."""
        stored = (each for each in self._conversations if each.id not in job.completed_ids)
        sampling = self._sampling(job)
        return chain(stored, sample_responses(sampling)) if sampling.requests else stored

    def _sampling(self, job: GenerationJob) -> GenerationJob:
        """The job without the requests that the file has responses to."""
        requests = (each for each in job.requests if each.query.id in self._without_response)
        return replace(job, requests=tuple(requests))


def files(*, path: Path) -> DataProvider:
    """Read conversations or queries from a JSONL file.

    Args:
        path: The file; a line has `messages`, and may have `id` and `complete`.
    """
    return FilesProvider(path)


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `files`."""
    return {"files": files}
