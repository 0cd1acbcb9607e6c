"""Whether an endpoint's tokenizer is the student's: told by the texts of its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from promptbake import BakeError, ChatRenderer, Model, Renderer, Span

REACH = 3  # tokens before the one that ends a character, which is four bytes at most
HALF = "\ufffd"  # what stands for bytes that are no whole character
BRACKETED = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")  # <|im_end|>, </s>, [/INST]


class TokenizerError(BakeError):
    """The endpoint's tokenizer is not the student's: no answer of it can be used."""


class Vocabulary:
    """The student's tokens as text, to find out whether an endpoint's are the same.

    Ids mean nothing to another tokenizer, and it would answer all the same: with numbers about
    other tokens. So the text of each response token is compared. Two kinds have no text of their
    own. A special token is none to the renderer; the endpoint's text for it must come back as this
    very id. And a token that is a part of a character has, by the endpoint's version, a
    replacement character, no text, or with the token that ends it the whole character's: each is
    compared with the student's text of the same tokens, and no text at all is passed over. That
    cannot let another tokenizer through: the probe has a token that is not passed over, and
    another tokenizer has texts where the student's has whole characters. A short response may be
    the same in two tokenizers by accident, and it is the ids beside it that are trained on, so
    those are compared, too, where they are whole characters.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._renderer = model.name, model.renderer
        self._texts: dict[int, frozenset[str]] = {}

    def is_comparable(self, token: int) -> bool:
        """Whether it is one or more whole characters."""
        texts = self._texts_of(token)
        return any(texts) and not _has_half(texts)

    def check(self, span: Span, texts: Sequence[str], url: str) -> None:
        """Compare the endpoint's texts of the response's tokens. Raises TokenizerError."""
        for at, text in enumerate(texts, len(span.tokens) - span.n_response):
            if not self._fits(span.tokens, at, text):
                raise self._another(span.tokens[at], text, span.name or "a sequence", url)

    def check_listed(self, listed: Iterable[tuple[int, str | None]], name: str, url: str) -> None:
        """Compare texts of tokens that stand beside the response's. Raises TokenizerError."""
        for token, text in listed:
            if text is not None and self.is_comparable(token) and text not in self._texts_of(token):
                raise self._another(token, text, name, url)

    def _another(self, token: int, text: str, name: str, url: str) -> TokenizerError:
        ours = self._renderer.text([token])
        return TokenizerError(
            f"{name}: token {token} is {ours!r} to the student and {text!r} to {url}, so the "
            f"endpoint's tokenizer is another one; let it serve {self._model}, or use "
            "teacher.source = 'self'"
        )

    def _fits(self, tokens: Sequence[int], at: int, text: str) -> bool:
        texts = self._texts_of(tokens[at])
        if text in texts:
            return True
        if _has_half(texts):
            starts = range(max(at - REACH, 0), at)
            ours = (self._renderer.text(tokens[start : at + 1]) for start in starts)
            return not text or text in ours
        if not any(texts):
            return is_special(self._renderer, text, tokens[at])
        return False

    def _texts_of(self, token: int) -> frozenset[str]:
        """Its texts alone and after another: some tokenizers drop a leading space."""
        if token not in self._texts:
            alone, twice = self._renderer.text([token]), self._renderer.text([token, token])
            self._texts[token] = frozenset((alone, twice[len(alone) :]))
        return self._texts[token]


def is_special(renderer: Renderer, text: str, token: int) -> bool:
    """Whether this is the special token's text: amid others, it is read as that token.

    A renderer other than the core's may spell a special token's text out, as tinker-cookbook's
    do. Of those no more is asked than the look of a special token, in brackets.
    """
    if token in renderer.response(f"x{text}x", False):
        return True
    return not isinstance(renderer, ChatRenderer) and bool(BRACKETED.fullmatch(text))


def _has_half(texts: frozenset[str]) -> bool:
    return any(HALF in text for text in texts)
