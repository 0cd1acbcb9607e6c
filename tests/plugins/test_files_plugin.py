"""Conversations and queries from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from promptbake.costs import NoBudget
from promptbake.dataset.conversations import messages_to_json, to_line
from promptbake.dataset.queries import plan, split
from promptbake.errors import BakeError
from promptbake.interfaces import DataProvider, GenerationJob, Model
from promptbake.testing import DataProviderSuite
from promptbake.testing.providers.generate_call import questions
from promptbake.types import Conversation, GenerationRequest, Message, Prompt
from promptbake_files import files
from promptbake_mock.tiny import NAME, tiny_backend

USER_A, SAY_B = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class TestAFileOfConversations(DataProviderSuite):
    samples = False
    brings_queries = True

    @pytest.fixture
    def provider(self, tmp_path: Path) -> DataProvider:
        ask_c = {"role": "user", "content": "c"}
        lines = [
            {"messages": [USER_A, SAY_B]},
            {"id": "cut", "messages": [USER_A, SAY_B], "complete": False},
            {"id": 7, "messages": [ask_c, SAY_B, USER_A, SAY_B]},
        ]
        return files(path=write(tmp_path / "mine.jsonl", *lines))


class TestAFileOfQueries(DataProviderSuite):
    uses_base_model = True
    brings_queries = True

    @pytest.fixture
    def provider(self, tmp_path: Path) -> DataProvider:
        lines = [{"messages": messages_to_json(query.messages)} for query in questions()]
        return files(path=write(tmp_path / "queries.jsonl", *lines))


def no_model() -> Model:
    raise AssertionError("no model is needed")


def job(requests: Sequence[GenerationRequest] = ()) -> GenerationJob:
    return GenerationJob(
        Prompt("p", "Say hm."), tuple(requests), frozenset(), 4, 0, no_model, NoBudget()
    )


def test_conversations_are_yielded_as_they_stand_without_a_model(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"messages": [USER_A, SAY_B]},
        {"id": 7, "messages": [USER_A, SAY_B, USER_A, SAY_B], "complete": False},
    )
    provider = files(path=path)
    turns = (Message("user", "a"), Message("assistant", "b"))
    meta = {"source": "mine.jsonl"}
    assert list(provider.generate(job())) == [
        Conversation("line-000001", "q-line-000001", turns, True, meta),
        Conversation("7", "q-7", turns * 2, False, meta),
    ]
    assert [(query.id, query.messages) for query in provider.queries()] == [
        ("q-line-000001", turns[:1]),
        ("q-7", (*turns, turns[0])),
    ]


def test_answers_to_the_same_words_share_a_query(tmp_path: Path) -> None:
    """So the split keeps them on one side."""
    lines = [{"id": name, "messages": [USER_A, SAY_B]} for name in "abc"]
    provider = files(path=write(tmp_path / "mine.jsonl", *lines))
    assert [query.id for query in provider.queries()] == ["q-a"]
    assert {found.query_id for found in provider.generate(job())} == {"q-a"}


def test_the_model_answers_what_the_file_does_not(tmp_path: Path) -> None:
    other = {"role": "user", "content": "other"}
    lines = (
        {"id": "asked", "messages": [other]},
        {"id": "told", "messages": [USER_A, SAY_B]},
        {"id": "again", "messages": [other]},
    )
    provider = files(path=write(tmp_path / "mine.jsonl", *lines))
    requests = plan(split(provider.queries(), 1, seed=0), (1.0,))
    wanted = replace(job(requests), open_model=lambda: tiny_backend().open_model(NAME))
    told, answered = provider.generate(wanted)
    assert (told.id, told.query_id) == ("told", "q-told")
    assert answered.query_id == "q-asked"
    assert answered.messages[:-1] == (Message("user", "other"),)
    assert answered.response
    assert list(provider.generate(replace(wanted, done=frozenset({told.id, answered.id})))) == []


def test_what_promptbake_wrote_can_be_read(tmp_path: Path) -> None:
    turns = (Message("user", "a"), Message("assistant", "b\u2028c"))
    written = Conversation("c@0.7", "c", turns, False, {"tokens": 3})
    (read,) = files(path=write(tmp_path / "data.jsonl", to_line(written))).generate(job())
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
    with pytest.raises(BakeError) as caught:
        files(path=path)
    assert str(caught.value).startswith(f"{path}{problem}")


def test_a_file_must_be_there_and_must_hold_something(tmp_path: Path) -> None:
    with pytest.raises(BakeError, match="cannot be read: No such file"):
        files(path=tmp_path / "none.jsonl")
    with pytest.raises(BakeError, match=r"mine\.jsonl: holds no conversations"):
        files(path=write(tmp_path / "mine.jsonl"))
