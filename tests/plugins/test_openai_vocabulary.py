"""Whether an endpoint's tokenizer is the student's: what is let through, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fake_openai import Rows, Spoiled, ask, decoded, serving, spans, teacher, torch_twin

from promptbake.errors import BakeError
from promptbake.types import Message, Span
from promptbake_loopback.openai import KEY, ChatEndpoint
from promptbake_openai.teacher import OpenAITeacher
from promptbake_openai.vocabulary import TokenizerError, Vocabulary
from promptbake_torch.model import TorchModel


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        yield


@pytest.fixture(scope="module")
def twin() -> TorchModel:
    return torch_twin()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ChatEndpoint]:
    with serving() as endpoint:
        yield endpoint


@pytest.mark.parametrize(
    ("decode", "says"),
    [
        (lambda token: decoded(token + 1), r"token \d+ is 'H' to the student and 'I' to"),
        (lambda token: decoded(token).upper(), "is 'm' to the student and 'M' to"),
        (lambda token: " " + decoded(token), "is 'H' to the student and ' H' to"),
        (lambda token: "<x>" if token > 255 else decoded(token), "'' to the student and '<x>'"),
        (lambda _: "", "is 'H' to the student and '' to"),
    ],
    ids=["shifted", "another case", "spaced", "another end", "silent"],
)
def test_another_tokenizer_is_refused_before_the_others_are_asked(
    twin: TorchModel, decode: Callable[[int], str], says: str
) -> None:
    with serving(decode=decode) as other:
        with pytest.raises(TokenizerError, match=f"conversation c3: .*{says}.*is another one"):
            ask(twin, teacher(other), spans(twin))
        assert other.meter.requests == 1


def test_a_tokenizer_that_agrees_on_the_response_alone_is_another_one(twin: TorchModel) -> None:
    same = {token for span in spans(twin) for token in span.tokens[-span.n_response :]}
    with serving(decode=lambda token: decoded(token) if token in same else "#") as other:
        with pytest.raises(TokenizerError, match=r"conversation c3: .* and '#' to"):
            ask(twin, teacher(other), spans(twin))
        assert other.meter.requests == 1


def test_a_tokenizer_that_turns_out_to_be_another_one_ends_it(
    twin: TorchModel, endpoint: ChatEndpoint
) -> None:
    def rename(rows: Rows) -> None:
        next(iter((rows[-3] or {}).values()))["decoded_token"] = "?"

    source = OpenAITeacher([Spoiled(endpoint, rename, after=1)], concurrency=1)
    before = endpoint.meter.requests
    with pytest.raises(TokenizerError, match="conversation c0"):
        ask(twin, source, spans(twin))
    assert endpoint.meter.requests == before + 2


# The bytes of these characters are tokens of their own; an endpoint may say so in several ways.
@pytest.mark.parametrize(
    "texts",
    [
        [
            "a",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "\ufffd",
            "b",
            "<|im_end|>",
        ],
        ["a", "", "", "√", "", "", "", "😀", "b", "<|im_end|>"],
        ["a", "", "", "", "", "", "", "", "b", ""],
    ],
    ids=["alone", "with the last", "left out"],
)
def test_parts_of_characters_are_compared_as_far_as_they_are_told(
    twin: TorchModel, texts: list[str]
) -> None:
    response = twin.renderer.response("a√😀b", True)
    span = Span(twin.renderer.prompt((Message("user", "?"),)) + response, len(response))
    vocabulary = Vocabulary(twin)
    assert [vocabulary.is_comparable(token) for token in response] == [
        True,
        *[False] * 7,
        True,
        False,
    ]
    vocabulary.check(span, texts, "here")
    for at, text in [
        (0, "\ufffd"),
        (0, ""),
        (3, "π"),
        (3, "a"),
        (7, "😁"),
        (8, "\ufffd"),
        (9, "b"),
    ]:
        spoiled = [*texts[:at], text, *texts[at + 1 :]]
        with pytest.raises(TokenizerError, match=f"token {response[at]} is"):
            vocabulary.check(span, spoiled, "here")


class Leading:
    """Drops the space before a text's first word, as SentencePiece's tokenizers do."""

    def text(self, tokens: Sequence[int]) -> str:
        return "".join({1: " on", 2: "ly"}[token] for token in tokens).removeprefix(" ")


def test_a_leading_space_may_be_dropped_or_not() -> None:
    model: Any = SimpleNamespace(name="m", renderer=Leading())
    span = Span((2, 1, 2), 2)
    for text in ("on", " on"):
        Vocabulary(model).check(span, [text, "ly"], "here")
    for text in ("  on", "o"):
        with pytest.raises(TokenizerError):
            Vocabulary(model).check(span, [text, "ly"], "here")


class Spelling(Leading):
    """Reads no special tokens in a text, as tinker-cookbook's renderers; token 3 is one."""

    def text(self, tokens: Sequence[int]) -> str:
        return super().text([token for token in tokens if token != 3])

    def response(self, text: str, complete: bool) -> tuple[int, ...]:
        return (*map(ord, text), *([3] if complete else []))


def test_a_renderer_that_spells_out_special_tokens_takes_what_looks_like_one() -> None:
    model: Any = SimpleNamespace(name="m", renderer=Spelling())
    span = Span((2, 1, 3), 2)
    for text in ("<|im_end|>", "</s>", "[/INST]", ""):
        Vocabulary(model).check(span, ["on", text], "here")
    for text in ("ly", "<", " <|im_end|>"):
        with pytest.raises(TokenizerError, match="token 3 is"):
            Vocabulary(model).check(span, ["on", text], "here")


def test_responses_that_can_not_be_compared_are_refused(
    twin: TorchModel, endpoint: ChatEndpoint
) -> None:
    response = twin.renderer.response("√", True)
    span = Span(twin.renderer.prompt((Message("user", "?"),)) + response, len(response))
    with pytest.raises(BakeError, match=r"cannot be compared .* use teacher\.source = 'self'"):
        ask(twin, teacher(endpoint), [span])
