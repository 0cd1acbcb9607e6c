"""Conversations and queries from a file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from generation_jobs import job

from promptbake import BakeError, Conversation, DataProvider, GenerationRequest, Message, NoBudget
from promptbake.dataset.conversations import messages_to_json, to_line
from promptbake.testing import DataProviderSuite
from promptbake.testing.providers.generate_call import questions
from promptbake_files import files
from promptbake_mock import mock_backend

USER_A, SAY_B = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
USER_C = {"role": "user", "content": "c"}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class TestFileOfConversations(DataProviderSuite):
    samples = False
    brings_queries = True

    @pytest.fixture
    def provider(self, tmp_path: Path) -> DataProvider:
        lines = [
            {"messages": [USER_A, SAY_B]},
            {"id": "cut", "messages": [USER_A, SAY_B], "complete": False},
            {"id": 7, "messages": [USER_C, SAY_B, USER_A, SAY_B]},
        ]
        return files(path=write(tmp_path / "mine.jsonl", *lines))


class TestFileOfQueries(DataProviderSuite):
    uses_base_model = True
    brings_queries = True

    @pytest.fixture
    def provider(self, tmp_path: Path) -> DataProvider:
        lines = [{"messages": messages_to_json(query.messages)} for query in questions()]
        return files(path=write(tmp_path / "queries.jsonl", *lines))


def test_conversations_are_yielded_unchanged_without_a_model(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"messages": [USER_A, SAY_B]},
        {"id": 7, "messages": [USER_A, SAY_B, USER_A, SAY_B], "complete": False},
        {"id": "again", "messages": [USER_A, SAY_B]},
    )
    provider = files(path=path)
    turns = (Message("user", "a"), Message("assistant", "b"))
    meta = {"source": "mine.jsonl"}
    assert list(provider.generate(job())) == [
        Conversation("line-000001", "q-line-000001", turns, True, meta),
        Conversation("7", "q-7", turns * 2, False, meta),
        Conversation("again", "q-line-000001", turns, True, meta),  # so a split keeps them together
    ]
    assert [(query.id, query.messages) for query in provider.queries()] == [
        ("q-line-000001", turns[:1]),
        ("q-7", (*turns, turns[0])),
    ]


def test_the_model_responds_to_what_has_no_response(tmp_path: Path) -> None:
    lines = (
        {"id": "asked", "messages": [USER_C]},
        {"id": "stored", "messages": [USER_A, SAY_B]},
        {"id": "again", "messages": [USER_C]},
    )
    provider = files(path=write(tmp_path / "mine.jsonl", *lines))
    wanted = tuple(GenerationRequest(f"{q.id}@1.0", q, 1.0) for q in provider.queries())
    model = mock_backend().open_model("mock", NoBudget())
    sampling = job(wanted, max_tokens=4, open_model=lambda: model)
    stored, sampled = provider.generate(sampling)
    assert (stored.id, stored.query_id) == ("stored", "q-stored")
    assert (sampled.id, sampled.query_id) == ("q-asked@1.0", "q-asked")
    assert isinstance(sampled, Conversation)
    assert sampled.messages[:-1] == (Message("user", "c"),)
    assert sampled.response
    completed = replace(sampling, completed_ids=frozenset({stored.id, sampled.id}))
    assert list(provider.generate(completed)) == []


def test_a_run_s_data_can_be_read(tmp_path: Path) -> None:
    turns = (Message("user", "a"), Message("assistant", "b\u2028c"))
    line = to_line(Conversation("c@0.7", "c", turns, False, {"tokens": 3}))
    (read,) = files(path=write(tmp_path / "data.jsonl", line)).generate(job())
    assert isinstance(read, Conversation)
    assert (read.id, read.messages, read.complete) == ("c@0.7", turns, False)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"messages": [USER_A, USER_A]}, ":2: turns must go user, assistant, user"),
        ({"messages": [{"role": "system", "content": "Hm."}, USER_A]}, ":2: holds a system"),
        ({"text": "a"}, ':2: expected "messages": [...] with at least one turn'),
        ({"id": "a", "messages": [USER_A]}, ":2: an earlier line has the id 'a', too"),
        ([], ":2: expected a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, problem: str) -> None:
    path = write(tmp_path / "mine.jsonl", {"id": "a", "messages": [USER_A, SAY_B]}, line)
    with pytest.raises(BakeError, match=f"^{re.escape(f'{path}{problem}')}"):
        files(path=path)


def test_a_file_must_exist_and_must_not_be_empty(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match="cannot be read: No such file"):
        files(path=tmp_path / "none.jsonl")
    with pytest.raises(BakeError, match=r"mine\.jsonl: holds no conversations"):
        files(path=write(tmp_path / "mine.jsonl"))
