"""Where queries come from, and that nothing held out is trained on."""

from __future__ import annotations

import json
import re
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import Table
from pyarrow.parquet import write_table

from promptbake.dataset.queries import (
    BUILTIN,
    Split,
    digest,
    load_queries,
    load_questions,
    requests_for,
    split,
)
from promptbake.errors import BakeError
from promptbake.types import Message, Query

QUESTIONS = load_questions(BUILTIN)


def ask(id: str, *turns: str) -> Query:  # noqa: A002
    roles = ("user", "assistant")
    messages = (Message(roles[n % 2], text) for n, text in enumerate(turns))
    return Query(id, tuple(messages))


def words(asked: tuple[Query, ...]) -> set[tuple[Message, ...]]:
    return {query.messages for query in asked}


def refusal(source: str) -> str:
    with pytest.raises(BakeError) as caught:
        load_queries(source)
    return str(caught.value)


def content_words(query: Query) -> frozenset[str]:
    """What a query is about: its words of four letters or more."""
    return frozenset(re.findall(r"\w{4,}", query.messages[0].content.lower()))


def test_150_queries_are_built_in_and_any_prefix_has_the_ten_categories_evenly() -> None:
    built_in = load_queries(BUILTIN)
    assert len({query.id for query in built_in}) == len(words(built_in)) == 150
    categories = [query.category for query in built_in[:10]]
    assert len(set(categories)) == 10
    assert [query.category for query in built_in] == categories * 15
    for query in built_in:
        (message,) = query.messages
        assert message.role == "user"
        assert message.content == message.content.strip()
        assert 8 <= len(message.content.split()) <= 20


def test_no_two_built_in_queries_or_test_questions_share_most_of_their_words() -> None:
    spoken = [content_words(query) for query in (*load_queries(BUILTIN), *QUESTIONS)]
    for one, other in combinations(spoken, 2):
        assert 2 * len(one & other) < len(one | other), (one, other)


def test_the_ten_test_questions_are_in_the_categories_and_no_built_in_query() -> None:
    built_in = load_queries(BUILTIN)
    assert {query.category for query in QUESTIONS} == {query.category for query in built_in}
    assert len(words(QUESTIONS)) == len(QUESTIONS) == 10
    assert words(QUESTIONS) & words(built_in) == set()
    assert {query.id for query in QUESTIONS} & {query.id for query in built_in} == set()


def test_a_text_file_holds_a_query_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffHow are you?\r\n\r\n  Why?\u2028Because?  \n".encode())
    assert load_queries(str(path)) == (
        ask("line-00001", "How are you?"),
        ask("line-00003", "Why?\u2028Because?"),
    )
    assert load_questions(str(path)) == load_queries(str(path))


def test_a_jsonl_file_holds_texts_or_turns(tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c\u2028d")]
    messages = [{"role": role, "content": text} for role, text in turns]
    lines = [
        {"text": "How are you?"},
        {"id": 7, "text": "Why?", "category": "science"},
        {"messages": messages},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert load_queries(str(path)) == (
        ask("line-00001", "How are you?"),
        Query("7", (Message("user", "Why?"),), "science"),
        ask("line-00005", "a", "b", "c\u2028d"),
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", ":2: is not JSON: "),
        ("[1]", ":2: expected a JSON object; found [1]"),
        ('{"question": "a"}', ':2: expected "messages": [...] with at least one turn'),
        ('{"text": 3}', ':2: text: expected a valid string; found 3'),
        ('{"text": " "}', ":2: the user's turn is empty"),
        ('{"id": "a", "text": "b"}', ": two queries have the id 'a'"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
         ":2: a query ends with the user's turn; for conversations that are answered already, use "
         "data.provider=files"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": "a", "text": "a"}\n' + line + "\n")
    assert refusal(str(path)).startswith(f"{path}{problem}")


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("mine.JSONL", '{"text": "Hi?"}\n{"text": "So, \\"what\\"?"}\n', None),
        ("mine.json", '["Hi?", {"text": "So, \\"what\\"?"}]', None),
        ("mine.CSV", 'n,text\n1,Hi?\n2,"So, ""what""?"\n', "text"),
        ("mine.tsv", 'text\tn\nHi?\t1\n"So, ""what""?"\t2\n\n', "text"),
        ("mine.csv", 'text\nHi?\n"So, ""what""?"\n', None),
        ("mine.txt", 'Hi?\nSo, "what"?', "text"),
    ],
)
def test_a_file_is_read_as_what_its_ending_says(
    tmp_path: Path, name: str, content: str, column: str | None
) -> None:
    (tmp_path / name).write_text(content)
    found = load_queries(str(tmp_path / name), column=column)
    assert [query.messages[0].content for query in found] == ["Hi?", 'So, "what"?']
    assert load_questions(str(tmp_path / name), column) == found


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("mine.csv", 'text,n\n"Hi?,1\nWhy?,2\n', "mine.csv:3: is not CSV: unexpected end of data"),
        ("mine.csv", "text,text\nHi?,1\n", "two columns are called 'text'"),
        ("mine.csv", "a,b\nHi?,1\n", "CSV: set data.column to one of: a, b; found 'text'"),
        ("mine.csv", "text,n\nHi, you?,1\n", "mine.csv:2: has 3 fields, and there are 2"),
        ("mine.csv", f"text\n{'x' * 140_000}\n", "is not CSV: field larger than field limit"),
        ("mine.xlsx", "Hi?", "expected a file that ends with .jsonl, .json, .csv, .tsv, .parq"),
        ("mine.json", '{"text": "Hi?"}', "expected a list"),
        ("mine.json", "[" * 5000, "is not JSON: recursion limit exceeded"),
        ("mine.parquet", "PAR1", "mine.parquet: is not Parquet: "),
    ],
)
def test_a_table_that_is_damaged_is_refused(
    tmp_path: Path, name: str, content: str, problem: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BakeError) as caught:
        load_queries(str(tmp_path / name), column="text")
    assert problem in str(caught.value)


def test_a_parquet_file_is_read_by_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "mine.parquet")
    turns = [[{"role": "user", "content": text}] for text in ("Why?", "How?")]
    write_table(Table.from_pydict({"text": ["Hi?", None], "turns": turns}), path)
    assert load_queries(path, column="text") == (ask("row-00001", "Hi?"),)
    assert words(load_queries(path, column="turns")) == {
        ask("", "Why?").messages,
        ask("", "How?").messages,
    }
    assert "set data.column to one of: text, turns" in refusal(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(path).endswith("needs the module pyarrow: pip install 'promptbake[parquet]'")


class Rows(list[dict[str, object]]):
    """As much of a split of `datasets` as is used."""

    column_names = ("id", "question")

    def select_columns(self, names: list[str]) -> list[dict[str, object]]:
        return [{name: row[name] for name in names} for row in self]


def load_dataset(name: str, split: str) -> Rows:
    """As `datasets.load_dataset`, of one dataset."""
    if (name, split) != ("org/talk", "train"):
        raise ValueError(f"Unknown split {split!r}")
    turns = [{"role": "user", "content": "Why?"}]
    return Rows({"id": n, "question": value} for n, value in enumerate(("Hi?", "", turns)))


def test_a_dataset_of_the_hub_is_read_by_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal("hf://org/talk#question") == (
        "hf://org/talk#question: needs the module datasets: pip install 'promptbake[datasets]'"
    )
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    expected = (ask("row-00001", "Hi?"), ask("row-00003", "Why?"))
    assert load_queries("hf://org/talk#question") == expected
    assert load_queries("hf://org/talk:train", column="question") == expected
    assert "set data.column to one of: id, question" in refusal("hf://org/talk")
    assert "cannot be read: Unknown split 'test'" in refusal("hf://org/talk:test#question")


def test_a_file_without_queries_or_that_is_none_is_refused(tmp_path: Path) -> None:
    for name in ("empty.txt", "empty.jsonl"):
        (tmp_path / name).write_text(" \n\n")
        assert refusal(str(tmp_path / name)) == f"{tmp_path / name}: holds no queries"
    assert refusal(str(tmp_path / "none.txt")).endswith("cannot be read: No such file or directory")


asked = st.lists(st.text("ab", min_size=1, max_size=3), min_size=2, max_size=30).map(
    lambda texts: tuple(ask(f"q{number}", text) for number, text in enumerate(texts))
)
splits = st.tuples(asked, st.integers(0, 100)).filter(lambda case: len(words(case[0])) > 1)


@given(splits, st.data())
def test_a_split_never_puts_the_same_words_on_both_sides(
    case: tuple[tuple[Query, ...], int], data: st.DataObject
) -> None:
    found, seed = case
    held_out = data.draw(st.integers(1, len(words(found)) - 1))
    parts = split(found, held_out, seed)
    assert words(parts.training) & words(parts.held_out) == set()
    assert len(words(parts.held_out)) == held_out
    for part in (parts.training, parts.held_out):
        assert part == tuple(query for query in found if query in part)
    assert len(parts.training) + len(parts.held_out) == len(found)


def test_a_split_is_the_same_in_every_process_and_another_for_another_seed() -> None:
    three, four = (split(load_queries(BUILTIN)[:50], 4, seed).held_out for seed in (3, 4))
    recorded = ["science-1", "relationships-1", "humour-2", "life-advice-4"]
    assert [query.id for query in three] == recorded
    assert three != four


@pytest.mark.parametrize("held_out", [-1, 0, 2, 3])
def test_a_split_leaves_something_on_both_sides(held_out: int) -> None:
    found = (ask("1", "a"), ask("2", "b"), ask("3", "b"))
    with pytest.raises(BakeError, match=f"data.held_out = {held_out}: there are 2 different"):
        split(found, held_out, 0)


def test_the_plan_asks_training_queries_at_each_temperature_and_held_out_ones_once() -> None:
    parts = Split((ask("a", "A"), ask("b", "B")), (ask("c", "C"),))
    requests = requests_for(parts, (0.5, 1.0, 0.5))
    assert [(request.id, request.temperature) for request in requests] == [
        ("a@0.5", 0.5),
        ("b@0.5", 0.5),
        ("a@1.0", 1.0),
        ("b@1.0", 1.0),
        ("c@held-out", 1.0),
    ]
    assert all(request.id.startswith(request.query.id) for request in requests)


def test_the_digest_changes_with_an_id_a_word_a_role_and_the_order() -> None:
    one = ask("a", "x", "y", "z")
    other_role = Query("a", (Message("user", "x"), Message("user", "y"), Message("user", "z")))
    cases = [(one,), (ask("b", "x", "y", "z"),), (ask("a", "x", "y", "w"),), (other_role,), ()]
    cases += [(one, ask("c", "d")), (ask("c", "d"), one)]
    assert len({digest(case) for case in cases}) == len(cases)
    assert digest((one,)) == digest([Query("a", one.messages, category="science")])
