"""Both sequences end with the same response, and only the teacher's holds the prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbake.dataset.alignment import align, align_all, check_room
from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.testing.tiny import tiny_model, tiny_tokenizer
from promptbake.types import BakeTarget, Conversation, Message, Prompt
from promptbake_mock.tiny import NAME, tiny_backend
from promptbake_torch.loading import make_engine
from promptbake_torch.model import TorchModel

PROMPT = Prompt("yoda", "Speak like Yoda, you must.")
TARGET = BakeTarget("", PROMPT)
TALK = Conversation("c", "q", (Message("user", "Where?"), Message("assistant", "Far away.")))
texts = st.text(min_size=1, max_size=12).filter(
    lambda text: text.strip() and "<|" not in text  # a special token is no text
)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_backend().open_model(NAME)


@pytest.fixture(scope="module")
def short_model() -> Model:
    engine = make_engine(tiny_model(context_tokens=64), tiny_tokenizer(), "short", "digest")
    return TorchModel(engine, None, sample_batch=1)


def test_a_complete_response_ends_with_the_end_of_turn_token_and_a_cut_one_does_not(
    model: Model,
) -> None:
    datum = align(TALK, TARGET, model)
    cut = align(replace(TALK, complete=False), TARGET, model)
    assert datum.response_ids[-1] in model.renderer.stop_ids
    assert datum.response_ids[:-1] == cut.response_ids
    assert not model.renderer.stop_ids & set(cut.response_ids)
    assert model.renderer.text(datum.response_ids) == "Far away."
    assert (datum.conversation_id, datum.query_id, datum.n_response) == ("c", "q", 10)


def test_the_student_reads_what_a_user_of_the_baked_model_sends(model: Model) -> None:
    datum = align(TALK, TARGET, model)
    before = len(datum.student_ids) - datum.n_response
    assert datum.student_ids[:before] == model.renderer.prompt((Message("user", "Where?"),))
    before = len(datum.teacher_ids) - datum.n_response
    assert datum.teacher_ids[:before] == model.renderer.prompt(
        (Message("user", "Where?"),), system=PROMPT.text
    )


@given(question=texts, answer=texts, complete=st.booleans())
def test_the_prompt_is_in_the_teachers_tokens_alone(
    model: Model, question: str, answer: str, complete: bool
) -> None:
    messages = (Message("user", question), Message("assistant", answer))
    datum = align(Conversation("c", "q", messages, complete), TARGET, model)
    student, teacher = (model.renderer.text(ids) for ids in (datum.student_ids, datum.teacher_ids))
    assert PROMPT.text in teacher
    assert PROMPT.text not in student
    assert question in student
    assert student.endswith(answer)
    assert teacher.endswith(answer)


def test_earlier_turns_are_read_and_only_the_last_one_is_the_response(model: Model) -> None:
    turns = (*TALK.messages, Message("user", "How far?"), Message("assistant", "Very."))
    datum = align(Conversation("c", "q", turns), TARGET, model)
    assert datum.n_response == len("Very.") + 1
    assert "Far away." in model.renderer.text(datum.student_ids)


def test_each_conversation_is_read_in_the_contexts_of_its_own_target(model: Model) -> None:
    shorter = BakeTarget("shorter", PROMPT, Prompt("brief", "Be Yoda."))
    keep = BakeTarget("keep", Prompt("", ""), Prompt("", ""))
    talks = [replace(TALK, id="c1", target="keep"), replace(TALK, id="c0", target="shorter")]
    first, second = align_all(talks, [shorter, keep], model)
    assert (first.target, second.target) == ("shorter", "keep")  # in the order of their ids
    assert "Be Yoda." in model.renderer.text(first.student_ids)
    assert PROMPT.text in model.renderer.text(first.teacher_ids)
    assert second.student_ids == second.teacher_ids
    with pytest.raises(BakeError, match="c0: unknown target 'shorter'; available: 'keep"):
        align_all(talks, [keep], model)


@pytest.mark.parametrize(
    ("answer", "prompt", "who"),
    [("so " * 30, "Hi.", "without"), ("So.", "Speak, you must. " * 3, "with")],
)
def test_a_conversation_that_does_not_fit_is_refused(
    short_model: Model, answer: str, prompt: str, who: str
) -> None:
    talk = Conversation("c-7", "q", (Message("user", "?"), Message("assistant", answer)))
    with pytest.raises(
        BakeError, match=rf"conversation c-7: \d+ tokens {who} the prompt, and the "
    ):
        align(talk, BakeTarget("", Prompt("long", prompt)), short_model)


def test_a_prompt_must_leave_room_for_a_response(short_model: Model) -> None:
    taken = len(short_model.renderer.prompt((Message("user", "?"),), system="Hi."))
    prompt = Prompt("hi", "Hi.")
    check_room(prompt, short_model, 64 - taken)
    with pytest.raises(BakeError) as caught:
        check_room(prompt, short_model, 65 - taken)
    assert str(caught.value).startswith(
        f"prompt hi: with a response of {65 - taken} tokens it takes 65"
    )
    assert "lower data.max_tokens" in str(caught.value)
