"""Whether an endpoint's tokenizer is the student's, judged by the texts of its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from promptbake import BakeError, ChatRenderer, Model, Renderer, Span

MAX_LEAD = 3  # tokens before the one that ends a character, which is four bytes at most
PARTIAL = "\ufffd"  # what stands for bytes that are no whole character
BRACKETED = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")  # <|im_end|>, </s>, [/INST]


class TokenizerError(BakeError):
    """The endpoint's tokenizer is not the student's: none of its responses can be used."""


class Vocabulary:
    """The student's tokens as text, to find out whether an endpoint's are the same.

    Ids mean nothing to another tokenizer, and an endpoint that has one would still respond: with
    log-probabilities of other tokens. So the text of each response token is compared. Two kinds of
    tokens have no text of their own:

    - A special token has none in the renderer. The endpoint's text for it must encode to its id.
    - A token that is a part of a character has, depending on the endpoint's version, a replacement
      character, no text, or (for the last part) the whole character. It is compared with the
      student's text of the same tokens, and no text at all is accepted. That cannot let another
      tokenizer pass: the probe has a token that is compared in full.

    A short response may have the same texts in two tokenizers by accident, and the ids beside it
    are trained on, so those are compared, too, where they are whole characters.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._renderer = model.name, model.renderer
        self._texts_by_token: dict[int, frozenset[str]] = {}

    def is_comparable(self, token: int) -> bool:
        """Whether it is one or more whole characters."""
        texts = self._texts(token)
        return any(texts) and not _has_partial(texts)

    def check(self, span: Span, texts: Sequence[str], url: str) -> None:
        """Compare the endpoint's texts of the response's tokens. Raises TokenizerError."""
        for position, text in enumerate(texts, len(span.tokens) - span.n_response):
            if not self._matches(span.tokens, position, text):
                raise self._error(span.tokens[position], text, span.name or "a sequence", url)

    def check_alternatives(
        self, alternatives: Iterable[tuple[int, str | None]], name: str, url: str
    ) -> None:
        """Compare texts of tokens that are listed beside the response's. Raises TokenizerError."""
        for token, text in alternatives:
            if text is not None and self.is_comparable(token) and text not in self._texts(token):
                raise self._error(token, text, name, url)

    def _error(self, token: int, text: str, name: str, url: str) -> TokenizerError:
        ours = self._renderer.text([token])
        return TokenizerError(
            f"{name}: token {token} is {ours!r} to the student and {text!r} to {url}, so the "
            f"endpoint has another tokenizer; let it serve {self._model}, or use "
            "teacher.source = 'self'"
        )

    def _matches(self, tokens: Sequence[int], position: int, text: str) -> bool:
        texts = self._texts(tokens[position])
        if text in texts:
            return True
        if _has_partial(texts):
            starts = range(max(position - MAX_LEAD, 0), position)
            ours = (self._renderer.text(tokens[start : position + 1]) for start in starts)
            return not text or text in ours
        return not any(texts) and is_special(self._renderer, text, tokens[position])

    def _texts(self, token: int) -> frozenset[str]:
        """Its texts alone and after another token: some tokenizers drop a leading space."""
        if token not in self._texts_by_token:
            alone, twice = self._renderer.text([token]), self._renderer.text([token, token])
            self._texts_by_token[token] = frozenset((alone, twice[len(alone) :]))
        return self._texts_by_token[token]


def is_special(renderer: Renderer, text: str, token: int) -> bool:
    """Whether the text, amid other text, is encoded as this special token.

    A renderer other than the core's may encode a special token's text as plain characters, as
    tinker-cookbook's do. Then the text need only look like a special token, in brackets.
    """
    if token in renderer.response(f"x{text}x", False):
        return True
    return not isinstance(renderer, ChatRenderer) and bool(BRACKETED.fullmatch(text))


def _has_partial(texts: frozenset[str]) -> bool:
    return any(PARTIAL in text for text in texts)
