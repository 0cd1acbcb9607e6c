"""Queries written for a prompt by the model that answers them: `data.queries = "generate"`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from promptbake.dataset.acceptance import Acceptance
from promptbake.dataset.query_files import ask
from promptbake.documents.typed import Document, parse, read_json_lines
from promptbake.errors import BakeError
from promptbake.files import write_atomic
from promptbake.interfaces import DataProvider, GenerationJob
from promptbake.redaction import excerpt, holds_secret, redact
from promptbake.types import Conversation, GenerationRequest, Message, Prompt, Query

AT_ONCE = 20  # queries that one request asks for
ROUNDS = 3  # as many requests as should do, at most so many times
MAX_TOKENS = 1024  # or data.max_tokens, where that is more
SHOWN = 120  # characters of what the model said, in a message
TASK = (
    "You write realistic test messages for chat assistants. You answer with the messages alone, "
    "one a line, in the form: category | message"
)
ORDER = (
    "An assistant works under these instructions:\n\n{prompt}\n\nWrite {n} first messages that its "
    "users might send, on topics as different as its users are, not about the instructions "
    "themselves. This is part {part}: begin with topics that other parts would not think of."
)
LINE = re.compile(r"^\W*(?P<category>[^|\n]{1,40}?)\s*\|\s*(?P<text>\S.{3,500})$")


def write_queries(
    provider: DataProvider, job: GenerationJob, n: int, answers: Path
) -> tuple[tuple[Query, ...], int, int]:
    """`n` different queries; and how many were left out as repeated, and as telling the prompt.

    Those that hold a key count with the latter.

    Raises BakeError where the provider's model does not come up with as many. What it said is then
    in the file `answers`, without the prompt.
    """
    queries: dict[str, Query] = {}
    repeated = quoting = 0
    said: list[str] = []
    for text in _answers(provider, job, n):
        said.append(text)
        for line in text.splitlines():
            match = LINE.match(line.strip())
            if match is None or len(queries) == n:
                continue
            query = ask(
                f"written-{len(queries):03}", match["text"], match["category"].strip().lower()
            )
            key = re.sub(r"\W+", " ", match["text"]).casefold().strip()
            if job.prompt.text.strip() in match["text"] or holds_secret(match["text"]):
                quoting += 1
            elif key in queries:
                repeated += 1
            else:
                queries[key] = query
        if len(queries) == n:
            return tuple(queries.values()), repeated, quoting
    shown = _without_prompt(said, job.prompt)
    write_atomic(answers, shown + "\n")
    raise BakeError(
        f"data.queries = 'generate': {len(queries)} of {n} different queries were written; the "
        f"model said {excerpt(shown, SHOWN)!r} (the whole is in {answers}), where lines "
        "'category | message' are expected; choose a model that can, lower data.n_queries, or "
        "write the queries to a file yourself"
    )


def _without_prompt(texts: Sequence[str], prompt: Prompt) -> str:
    """What the model said, to be looked at."""
    acceptance = Acceptance([prompt])
    shown = (redact(text.replace(prompt.text.strip(), "[the prompt]")) for text in texts)
    return "\n\n".join(
        "[it quotes the prompt]" if acceptance.quotes(each) else each for each in shown
    )


def read_queries(path: Path, made_by: dict[str, object]) -> tuple[Query, ...]:
    """Those that were written earlier, if for the same prompt, by the same; else none."""
    lines = read_json_lines(path)
    if not lines or lines[0] != made_by:
        return ()
    queries = (
        parse(_Line, line, f"{path}:{number}") for number, line in enumerate(lines[1:], start=2)
    )
    return tuple(ask(each.id, each.text, each.category) for each in queries)


class _Line(Document):
    id: str
    text: str
    category: str


def store_queries(path: Path, made_by: dict[str, object], queries: Sequence[Query]) -> None:
    """Keep them beside the run, whole or not at all."""
    lines = [made_by] + [
        {"id": query.id, "text": query.messages[-1].content, "category": query.category}
        for query in queries
    ]
    write_atomic(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _answers(provider: DataProvider, job: GenerationJob, n: int) -> Iterator[str]:
    """What the provider's model says to order after order, what is not kept among it."""
    parts = -(-n // AT_ONCE)
    for round_ in range(ROUNDS):
        requests = tuple(
            GenerationRequest(f"author-{part}", _order(job.prompt, part), 1.0)
            for part in range(round_ * parts + 1, (round_ + 1) * parts + 1)
        )
        order = replace(
            job,
            prompt=Prompt("author", TASK),
            requests=requests,
            completed_ids=frozenset(),
            seen_responses=frozenset(),
            max_tokens=max(MAX_TOKENS, job.max_tokens),
            turns=1,
        )
        answers = {
            each.id: each.response if isinstance(each, Conversation) else each.text
            for each in provider.generate(order)
        }
        yield from (answers[request.id] for request in requests if request.id in answers)


def _order(prompt: Prompt, part: int) -> Query:
    text = ORDER.format(prompt=prompt.text, n=AT_ONCE, part=part)
    return Query(f"author-{part}", (Message("user", text),))
