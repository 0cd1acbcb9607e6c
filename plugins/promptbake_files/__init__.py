"""A data provider that reads conversations, or queries, from a JSONL file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from promptbake import (
    NO_COST,
    BakeError,
    Conversation,
    CostEstimate,
    DataProvider,
    Factories,
    GenerationJob,
    Message,
    Query,
    check_messages,
    estimate_responses,
    hookimpl,
    read_objects,
    sample_responses,
)

PROMPTBAKE_API = 2


class FilesProvider:
    """A line that ends with an answer is a conversation; one that ends with a question, a query.

    Queries are answered by the prompted base model.
    """

    def __init__(self, path: Path) -> None:
        self._conversations: list[Conversation] = []
        self._queries: dict[tuple[Message, ...], Query] = {}
        self._unanswered: set[str] = set()
        seen: set[str] = set()
        for number, line in read_objects(path):
            where = f"{path}:{number}"
            messages = check_messages(line, where)
            id_ = str(line.get("id", f"line-{number:06}"))
            if id_ in seen:
                raise BakeError(f"{where}: an earlier line has the id {id_!r}, too")
            seen.add(id_)
            answered = messages[-1].role == "assistant"
            asked = messages[:-1] if answered else messages
            query = self._queries.setdefault(asked, Query(f"q-{id_}", asked))
            if answered:
                complete = bool(line.get("complete", True))
                meta = {"source": path.name}
                self._conversations.append(Conversation(id_, query.id, messages, complete, meta))
            else:
                self._unanswered.add(query.id)
        if not seen:
            raise BakeError(f"{path}: holds no conversations")

    def queries(self) -> Sequence[Query]:
        """What the file's users asked."""
        return tuple(self._queries.values())

    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        """The file costs nothing; its queries what the model asks for them."""
        asked = self._asked(job)
        if not asked.requests:
            return NO_COST
        return estimate_responses(asked)

    def generate(self, job: GenerationJob) -> Iterator[Conversation]:
        """The file's conversations, then the model's answers to the file's queries."""
        stored = (found for found in self._conversations if found.id not in job.completed_ids)
        asked = self._asked(job)
        if not asked.requests:
            return stored
        return chain(stored, sample_responses(asked))

    def _asked(self, job: GenerationJob) -> GenerationJob:
        asked = (request for request in job.requests if request.query.id in self._unanswered)
        return replace(job, requests=tuple(asked))


def files(*, path: Path) -> DataProvider:
    """Read the JSONL file at `path`."""
    return FilesProvider(path)


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The provider `files`."""
    return {"files": files}
