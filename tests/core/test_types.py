"""The nouns refuse what is misaligned, and tell what they hold."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbake.types import Conversation, Datum, ImmediateResult, Message, Prompt, Span

tokens = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple)


@pytest.mark.parametrize("n_response", [-1, 0, 3, 4])
def test_a_span_needs_a_response_and_something_before_it(n_response: int) -> None:
    with pytest.raises(ValueError, match=f"3 tokens cannot hold a response of {n_response}"):
        Span((1, 2, 3), n_response)


@given(tokens, tokens, tokens)
def test_a_datum_is_aligned_from_the_end(
    student: tuple[int, ...], teacher: tuple[int, ...], response: tuple[int, ...]
) -> None:
    datum = Datum("c", "q", student + response, teacher + response, len(response))
    assert datum.response_ids == response
    assert datum.student == Span(student + response, len(response))
    assert datum.teacher == Span(teacher + response, len(response))


@given(tokens, tokens, tokens, st.data())
def test_a_datum_refuses_responses_that_differ_anywhere(
    student: tuple[int, ...],
    teacher: tuple[int, ...],
    response: tuple[int, ...],
    data: st.DataObject,
) -> None:
    where = data.draw(st.integers(0, len(response) - 1))
    other = (*response[:where], response[where] + 1, *response[where + 1 :])
    with pytest.raises(ValueError, match=f"conv-7: the last {len(response)} tokens"):
        Datum("conv-7", "q", student + response, teacher + other, len(response))


@pytest.mark.parametrize(
    ("student", "teacher", "n_response"),
    [((1, 2), (0, 1, 2), 2), ((0, 1, 2), (1, 2), 2), ((1, 2), (1, 2), 0)],
    ids=["no question", "no prompt", "no response"],
)
def test_a_datum_holds_two_spans(
    student: tuple[int, ...], teacher: tuple[int, ...], n_response: int
) -> None:
    with pytest.raises(ValueError, match="cannot hold a response"):
        Datum("c", "q", student, teacher, n_response)


def test_a_prompts_digest_is_of_its_text_alone() -> None:
    assert Prompt("yoda", "Grüße").digest == hashlib.sha256("Grüße".encode()).hexdigest()
    assert Prompt("yoda", "a").digest == Prompt("other", "a").digest


def test_a_conversations_response_is_its_last_turn() -> None:
    turns = (Message("user", "a"), Message("assistant", "b"))
    again = (*turns, Message("user", "c"), Message("assistant", "d"))
    assert Conversation("id", "q", turns).response == "b"
    assert Conversation("id", "q", again).response == "d"


def test_a_noun_cannot_be_changed() -> None:
    prompt = Prompt("yoda", "Speak you must.")
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.text = "Other"  # type: ignore[misc]


def test_a_result_that_is_done_is_there_at_once() -> None:
    assert ImmediateResult(3.5).result() == 3.5
