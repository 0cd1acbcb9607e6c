"""Which conversations are kept, and what of them: nothing that tells a prompt or a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from promptbake.dataset.alignment import rendering_problem
from promptbake.dataset.thinking import NOT_CLOSED, without_thinking
from promptbake.interfaces import Renderer
from promptbake.redaction import holds_secret, printable, redact
from promptbake.types import Conversation, Prompt, Rejection

META = frozenset(  # what a conversation's meta may say
    {
        "category",
        "dollars",
        "finish_reason",
        "model",
        "provider",
        "request_id",
        "round",
        "seconds",
        "seed",
        "source",
        "temperature",
        "tokens",
    }
)
FROM_ENDPOINTS = frozenset({"finish_reason", "provider", "request_id"})  # which may reflect
LONGEST_META = 200  # characters
SHORTEST_QUOTE = 12  # characters of the prompt that those may not hold


class Acceptance:
    """Decides about every provider's conversations, whatever its endpoint sent.

    Args:
        prompts: The teacher's prompts, which no stored conversation may quote whole.
        renderer: Gives the model's chat template, which must render what is kept; None where it
            takes the weights to open it.

    Attributes:
        dropped_meta: How often a meta value was left out, by its name.
        cleaned: How many conversations had think blocks, which are not kept.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt],
        renderer: Callable[[], Renderer | None] = lambda: None,
    ) -> None:
        texts = (one_line(prompt.text) for prompt in prompts)
        self._prompts = tuple(text for text in texts if text)
        self.dropped_meta: Counter[str] = Counter()
        self.cleaned = 0
        self._renderer = renderer

    def check(self, item: Conversation | Rejection) -> Conversation | Rejection:
        """The conversation as it may be stored, or why it is not kept."""
        if isinstance(item, Rejection):
            text = "" if self.quotes(item.text) else redact(item.text)
            return replace(item, reason=printable(redact(item.reason)), text=text)
        answers = without_thinking(item)
        reason = NOT_CLOSED if answers is None else self._reason(answers)
        if answers is None or reason is not None:
            return self.check(Rejection(item.id, item.query_id, reason or "", item.response))
        self.cleaned += answers is not item
        return replace(answers, meta=self._checked_meta(item.meta))

    def quotes(self, text: str) -> bool:
        """Whether the text holds a whole prompt, in whatever layout."""
        line = one_line(text)
        return any(prompt in line for prompt in self._prompts)

    def _reason(self, conversation: Conversation) -> str | None:
        if not conversation.response.strip():
            return "the response is empty"
        for message in conversation.messages:
            if self.quotes(message.content):
                return "it quotes the whole prompt"
            if holds_secret(message.content):
                return "it holds the value of a key's environment variable"
        renderer = self._renderer()
        return rendering_problem(conversation, renderer) if renderer else None

    def _checked_meta(
        self, meta: Mapping[str, str | int | float | None]
    ) -> dict[str, str | int | float | None]:
        kept = {name: value for name, value in meta.items() if self._may_keep(name, value)}
        self.dropped_meta.update(name for name in meta if name not in kept)
        return kept

    def _may_keep(self, name: str, value: object) -> bool:
        if name not in META:
            return False
        if not isinstance(value, str):
            return True
        line = one_line(value)
        reflected = name in FROM_ENDPOINTS and len(line) >= SHORTEST_QUOTE
        if self.quotes(value) or (reflected and any(line in each for each in self._prompts)):
            return False
        return value.isprintable() and len(value) <= LONGEST_META and redact(value) == value


def one_line(text: str) -> str:
    """The text with each run of white space as one space."""
    return " ".join(text.split())
