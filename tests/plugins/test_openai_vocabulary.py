"""Whether an endpoint's tokenizer is the student's: which texts pass, and which do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from fake_openai import ChatEndpoint, Rows, decoded, score, serving, spans, teacher

from promptbake import BakeError, Message, Span
from promptbake_openai.vocabulary import TokenizerError, Vocabulary
from promptbake_torch import TorchModel

pytestmark = pytest.mark.usefixtures("openai_key")


@cache
def response_tokens() -> set[int]:
    return {token for span in spans() for token in span.tokens[-span.n_response :]}


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        (lambda token: decoded(token + 1), r"token \d+ is 'H' to the student and 'I' to"),
        (lambda token: decoded(token).upper(), "is 'm' to the student and 'M' to"),
        (lambda token: " " + decoded(token), "is 'H' to the student and ' H' to"),
        (lambda token: "<x>" if token > 255 else decoded(token), "'' to the student and '<x>'"),
        (lambda _: "", "is 'H' to the student and '' to"),
        (lambda token: decoded(token) if token in response_tokens() else "#", "and '#' to"),
    ],
    ids=["shifted", "another case", "spaced", "another end", "empty", "the same on responses"],
)
def test_another_tokenizer_is_refused_by_the_first_request(
    decode: Callable[[int], str], reason: str
) -> None:
    with serving(decode=decode) as other:
        with pytest.raises(TokenizerError, match=f"conversation c3: .*{reason}.*has another"):
            score(teacher(other))
        assert other.meter.requests == 1


def test_another_tokenizer_is_refused_by_a_later_request(endpoint: ChatEndpoint) -> None:
    def rename(rows: Rows) -> None:
        next(iter((rows[-3] or {}).values()))["decoded_token"] = "?"

    before = endpoint.meter.requests
    with pytest.raises(TokenizerError, match="conversation c0"):
        score(teacher(endpoint, spoil=rename, after=1))
    assert endpoint.meter.requests == before + 2


def prompted(twin: TorchModel, text: str) -> Span:
    response = twin.renderer.response(text, True)
    return Span(twin.renderer.prompt((Message("user", "?"),)) + response, len(response))


# The bytes of these characters are tokens of their own; endpoints differ in their texts for them.
@pytest.mark.parametrize(
    "texts",
    [
        ["a", *["\ufffd"] * 7, "b", "<|im_end|>"],
        ["a", "", "", "√", "", "", "", "😀", "b", "<|im_end|>"],
        ["a", *[""] * 7, "b", ""],
    ],
    ids=["replacement characters", "whole with the last part", "empty"],
)
def test_parts_of_characters_are_compared_as_far_as_they_have_a_text(
    twin: TorchModel, texts: list[str]
) -> None:
    span, vocabulary = prompted(twin, "a√😀b"), Vocabulary(twin)
    response = span.tokens[-span.n_response :]
    comparable = [vocabulary.is_comparable(token) for token in response]
    assert comparable == [True, *[False] * 7, True, False]
    vocabulary.check(span, texts, "here")
    wrong = [(0, "\ufffd"), (0, ""), (3, "π"), (3, "a"), (7, "😁"), (8, "\ufffd"), (9, "b")]
    for position, text in wrong:
        changed = [*texts[:position], text, *texts[position + 1 :]]
        with pytest.raises(TokenizerError, match=f"token {response[position]} is"):
            vocabulary.check(span, changed, "here")


def test_responses_that_cannot_be_compared_are_refused(
    twin: TorchModel, endpoint: ChatEndpoint
) -> None:
    with pytest.raises(BakeError, match=r"cannot be compared .* use teacher\.source = 'self'"):
        score(teacher(endpoint), [prompted(twin, "√")])


class DropsLeadingSpace:
    """As SentencePiece's tokenizers do, before a text's first word."""

    def text(self, tokens: Sequence[int]) -> str:
        return "".join({1: " on", 2: "ly"}[token] for token in tokens).removeprefix(" ")


class SpellsOutSpecialTokens(DropsLeadingSpace):
    """As tinker-cookbook's renderers, which encode a special token's text; token 3 is one."""

    def text(self, tokens: Sequence[int]) -> str:
        return super().text([token for token in tokens if token != 3])

    def response(self, text: str, complete: bool) -> tuple[int, ...]:
        return (*map(ord, text), *([3] if complete else []))


@pytest.mark.parametrize(
    ("renderer", "tokens", "texts", "right", "wrong"),
    [
        (DropsLeadingSpace(), (2, 1, 2), "{},ly", ("on", " on"), ("  on", "o")),
        (
            SpellsOutSpecialTokens(),
            (2, 1, 3),
            "on,{}",
            ("<|im_end|>", "</s>", "[/INST]", ""),
            ("ly", "<", " <|im_end|>"),
        ),
    ],
    ids=["a leading space", "a special token"],
)
def test_texts_that_depend_on_the_renderer(
    renderer: object, tokens: tuple[int, ...], texts: str, right: Sequence[str], wrong: Any
) -> None:
    model: Any = SimpleNamespace(name="m", renderer=renderer)
    for text in right:
        Vocabulary(model).check(Span(tokens, 2), texts.format(text).split(","), "here")
    for text in wrong:
        with pytest.raises(TokenizerError):
            Vocabulary(model).check(Span(tokens, 2), texts.format(text).split(","), "here")
