"""Conversations go to lines and back, and a wrong line is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbake.dataset.conversations import check_messages, read, read_objects, to_line
from promptbake.dataset.example_turns import with_system
from promptbake.errors import BakeError
from promptbake.files import JsonLines
from promptbake.types import Conversation, Message

texts = st.text(max_size=8).filter(str.strip)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
ids = st.text(max_size=5)
meta = st.dictionaries(
    ids,
    ids
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
    | st.none(),
    max_size=2,
)

BIG = "9" * 5000


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    messages: list[Message] = []
    for question, answer in draw(turns):
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(draw(ids), draw(ids), tuple(messages), draw(st.booleans()), draw(meta))


def message(role: object, content: object = "a") -> dict[str, object]:
    return {"role": role, "content": content}


@given(st.lists(conversations(), max_size=3))
def test_conversations_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[Conversation]
) -> None:
    path = tmp_path_factory.getbasetemp() / "conversations.jsonl"
    path.unlink(missing_ok=True)
    with JsonLines(path) as file:
        for conversation in written:
            file.append(to_line(conversation))
    assert read(path) == tuple(written)


def test_a_line_is_what_chat_fine_tuning_tools_read() -> None:
    turns = (Message("user", "a"), Message("assistant", "b"))
    assert to_line(Conversation("c", "q", turns, False, {"tokens": 2})) == {
        "id": "c",
        "query_id": "q",
        "messages": [message("user", "a"), message("assistant", "b")],
        "complete": False,
        "meta": {"tokens": 2},
    }


@pytest.mark.parametrize("missing", ["id", "query_id", "complete", "meta"])
def test_a_line_that_lacks_something_is_named(tmp_path: Path, missing: str) -> None:
    whole = to_line(Conversation("c", "q", (Message("user", "a"), Message("assistant", "b"))))
    partial = {key: value for key, value in whole.items() if key != missing}
    path = tmp_path / "data.jsonl"
    path.write_text(f"{json.dumps(whole)}\n\n{json.dumps(partial)}\n")
    with pytest.raises(BakeError, match=f"data.jsonl:3: has no '{missing}'"):
        read(path)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("complete", "false", "complete: expected a valid boolean; found 'false'"),
        ("id", 3, "id: expected a valid string"),
        ("meta", {"temperature": float("nan")}, "meta.temperature: expected a finite number"),
        ("meta", {"temperature": -1}, "meta.temperature: expected greater than or equal to 0"),
        ("meta", {"tokens": [1]}, "meta.tokens"),
        ("messages", BIG, "is not JSON: number out of range"),
    ],
)
def test_a_field_of_another_type_is_named(
    tmp_path: Path, field: str, value: object, problem: str
) -> None:
    whole = to_line(Conversation("c", "q", (Message("user", "a"), Message("assistant", "b"))))
    text = BIG if value == BIG else json.dumps(value)
    line = json.dumps(whole | {field: "@"}).replace('"@"', text)
    (tmp_path / "data.jsonl").write_text(f"{line}\n")
    with pytest.raises(BakeError) as caught:
        read(tmp_path / "data.jsonl")
    assert str(caught.value).startswith(f"{tmp_path}/data.jsonl:1: {problem}")


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        (None, 'expected "messages": [...] with at least one turn'),
        ([], 'expected "messages": [...] with at least one turn'),
        ({"role": "user"}, 'expected "messages": [...] with at least one turn'),
        (["Grüße"], 'expected turns {"role": "user" or "assistant", "content": text}, found "Gr'),
        ([message("tool")], 'found {"role": "tool", "content": "a"}'),
        ([message(["user"])], 'found {"role": ["user"], "content": "a"}'),
        ([message("user", None)], 'found {"role": "user", "content": null}'),
        ([message("user", [{"type": "text"}])], 'found {"role": "user", "content": ['),
        ([message("system"), message("user")], "holds a system message; conversations are kept "
         "without the prompt, so delete that turn"),
        ([message("user"), message("assistant"), message("system")], "holds a system message"),
        ([message("user"), message("robot")], 'found {"role": "robot", "content": "a"}'),
        ([message("user"), message("assistant", "\n")], "the response is empty"),
        ([message("user", "")], "the user's turn is empty"),
        ([message("user", "smile \ud83d")], "the user's turn holds half a character"),
        ([message("user"), message("assistant", "\ude00")], "the response holds half a character"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "expected turns {"),
        ([message("assistant")], "turns must go user, assistant, user, ...; found assistant"),
        ([message("user"), message("user")], "turns must go user, assistant, user, ...; found "
         "user, user"),
    ],
)  # fmt: skip
def test_wrong_turns_are_refused_with_the_place(messages: Any, problem: str) -> None:
    line = {} if messages is None else {"messages": messages}
    with pytest.raises(BakeError) as caught:
        check_messages(line, "mine.jsonl:7")
    assert str(caught.value).startswith("mine.jsonl:7: ")
    assert problem in str(caught.value)


def test_turns_may_end_with_either_side() -> None:
    lines = [message("user", "a"), message("assistant", " b "), message("user", "c")]
    expected = (Message("user", "a"), Message("assistant", " b "), Message("user", "c"))
    assert check_messages({"messages": lines}, "x") == expected
    assert check_messages({"messages": lines[:2]}, "x") == expected[:2]
    parts = message("user") | {"content": [{"type": "text", "text": part} for part in ("a", "b")]}
    assert check_messages({"messages": [parts]}, "x") == (Message("user", "ab"),)


def test_objects_come_with_their_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y"}\r\n \n{"b": 1}'.encode())
    assert list(read_objects(path)) == [(1, {"a": "x\u2028y"}), (3, {"b": 1})]


QUESTION = (Message("user", "Why?"),)


@pytest.mark.parametrize(
    ("prompt", "turns"),
    [
        (" Be brief.\n", ["system: Be brief.\n"]),  # as it is where there are no examples
        ("Say [user] twice.", ["system:Say [user] twice."]),
        (
            "Be brief.\n\n[user]\nHi\n\n[assistant] \nHo, ho.\n",
            ["system:Be brief.", "user:Hi", "assistant:Ho, ho."],
        ),
        (
            "[user]\na\n[assistant]\nb\n[user]\nc\n[assistant]\nd",
            ["user:a", "assistant:b", "user:c", "assistant:d"],
        ),
    ],
)
def test_a_prompt_may_hold_example_turns(prompt: str, turns: list[str]) -> None:
    rendered = [f"{turn.role}:{turn.content}" for turn in with_system(prompt, QUESTION)]
    assert rendered == [*turns, "user:Why?"]


@pytest.mark.parametrize("prompt", ["[assistant]\na", "[user]\na", "[user]\n[assistant]\nb"])
def test_examples_that_are_no_turns_are_refused(prompt: str) -> None:
    with pytest.raises(BakeError, match=r"examples: expected a line \[user\], its text"):
        with_system(prompt, QUESTION)
