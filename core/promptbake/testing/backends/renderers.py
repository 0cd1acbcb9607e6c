"""The renderer's part of the conformance suite for backends."""

from __future__ import annotations

from promptbake.interfaces import Model
from promptbake.testing.backends.common import BackendTests
from promptbake.testing.sample_data import PROMPT, TALKS
from promptbake.types import Message

TEXTS = (*TALKS.values(), "x = [1, 2]\n\nreturn x", "Ça va? 海は広い, и так далее.", "0.1 + 0.2")
TURNS = (
    Message("user", "What is a tide?"),
    Message("assistant", "The moon does it."),
    Message("user", "And who asked the moon?"),
)


class RendererTests(BackendTests):
    """Of `model.renderer`."""

    def test_it_renders_to_tuples_of_tokens(self, base: Model) -> None:
        renderer = base.renderer
        for what, tokens in (
            ("prompt", renderer.prompt(TURNS)),
            ("prompt with a system prompt", renderer.prompt(TURNS, PROMPT.text)),
            ("response", renderer.response("Hm!", complete=True)),
        ):
            assert isinstance(tokens, tuple), f"{what} is no tuple: {tokens!r}"
            assert tokens, f"{what} has no tokens"
            assert all(type(token) is int for token in tokens), f"{what} has no ints: {tokens}"

    def test_it_has_tokens_that_end_a_turn(self, base: Model) -> None:
        stops = base.renderer.stop_ids
        assert isinstance(stops, frozenset), f"`stop_ids` is a {type(stops).__name__}: a frozenset"
        assert stops, "`stop_ids` is empty: nothing would end a response but its token limit"
        assert all(type(token) is int for token in stops), f"`stop_ids` is {stops}: ints"

    def test_the_system_prompt_is_in_the_prompt(self, base: Model) -> None:
        text = base.renderer.text(base.renderer.prompt(TURNS, PROMPT.text))
        assert PROMPT.text in text, (
            f"with the system prompt {PROMPT.text!r} the turns are rendered to {text!r}: a "
            "template without a system role gets it folded into the first user's turn"
        )
        for message in TURNS:
            assert message.content in text, f"{message.content!r} is lost: {text!r}"

    def test_without_a_system_prompt_it_is_not_there(self, base: Model) -> None:
        renderer = base.renderer
        before = renderer.prompt(TURNS)
        renderer.prompt(TURNS, PROMPT.text)
        after = renderer.prompt(TURNS)
        assert PROMPT.text not in renderer.text(after), (
            "the student would read the prompt that is to be baked: look for a system prompt that "
            "is kept from an earlier call"
        )
        assert after == before, "another rendering in between changes the tokens"

    def test_all_turns_are_in_the_prompt_in_their_order(self, base: Model) -> None:
        text = base.renderer.text(base.renderer.prompt(TURNS))
        places = [text.find(message.content) for message in TURNS]
        assert -1 not in places, f"a turn is lost of a conversation of three: {text!r}"
        assert places == sorted(places), f"the turns are out of order: {text!r}"

    def test_a_complete_response_ends_in_one_stop_token(self, base: Model) -> None:
        renderer = base.renderer
        for text in TEXTS:
            cut = renderer.response(text, complete=False)
            whole = renderer.response(text, complete=True)
            assert not renderer.stop_ids & set(cut), (
                f"{text!r} that was cut by the token limit holds a stop token: it would be trained "
                "on ending there"
            )
            assert whole[:-1] == cut, (
                f"{text!r} has {len(cut)} tokens where it was cut, and {len(whole)} where it is "
                "complete: expected the same and one stop token"
            )
            assert whole[-1] in renderer.stop_ids, (
                f"{text!r} that is complete ends in {whole[-1]}, which is not in `stop_ids`: the "
                "student would never learn to end its turn"
            )

    def test_a_response_comes_back_as_its_text(self, base: Model) -> None:
        renderer = base.renderer
        for text in TEXTS:
            for complete in (True, False):
                back = renderer.text(renderer.response(text, complete))
                assert back.strip() == text.strip(), (
                    f"{text!r} comes back as {back!r}: special tokens are left out, and all else "
                    "stays; look at the decoder's clean-up of spaces"
                )
