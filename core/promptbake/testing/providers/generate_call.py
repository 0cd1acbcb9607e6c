"""A call of a data provider's `generate`: the job that it is given, and everything it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import repeat
from typing import Any, ClassVar

import pytest

from promptbake.dataset.queries import requests_for, split
from promptbake.errors import BakeError
from promptbake.interfaces import DataProvider, GenerationJob, Model, no_progress
from promptbake.testing.recording import RecordingBudget, RecordingModel, Sampled
from promptbake.testing.sample_data import PROMPT, base_model, queries
from promptbake.testing.suite import Suite
from promptbake.types import (
    Completion,
    Conversation,
    GenerationRequest,
    Message,
    Prompt,
    Query,
    Rejection,
    TokenIds,
)

OTHER = Prompt(PROMPT.name, "Say it in one sentence, in plain words, and without a joke.")
TOKENS = 12  # of a response at its longest
FRAME = ("\n  A", "\n\n z ")  # what every response of the framed model begins and ends with
BATCH = 4  # prompts that the base model is best given at a time: some batches, and a rest
Item = Conversation | Rejection


def questions() -> tuple[Query, ...]:
    """Of one turn and of three, with odd white space, and the same words under two ids."""
    first, second, *others = queries()
    more = Message("assistant", "A poor man."), Message("user", "And your ship?")
    odd = (Message("user", "  Wie heißt\r\n du? \U0001f3f4\n\n"),)
    named = {"three-turns": (*second.messages, *more), "odd": odd, "again": first.messages}
    return (first, second, *others, *(Query(id_, turns) for id_, turns in named.items()))


class GenerateCall:
    """A call of `generate`, with a base model and a budget that record what they are asked.

    `items` has what was yielded, up to `error` if there was one; `raised_at_once` says whether that
    was raised by the call itself.
    """

    def __init__(
        self,
        provider: DataProvider,
        temperatures: Sequence[float] = (),
        *,
        model: RecordingModel | None = None,
        budget: RecordingBudget | None = None,
        cannot_open: bool = False,
        **job: Any,
    ) -> None:
        self.provider = provider
        self.model = model or recorded()
        self.budget = budget or RecordingBudget()
        asked = tuple(provider.queries()) or questions()
        self.queries = {query.id: query for query in asked}
        self.opened = 0
        self.progress: list[float] = []
        self.notes: list[str] = []
        self.items: list[Item] = []
        self.error: Exception | None = None
        self.raised_at_once = False
        self._cannot_open = cannot_open
        if "requests" not in job:  # as the data stage makes them
            job["requests"] = requests_for(split(asked, held_out=1, seed=0), temperatures)
        usual = dict[str, Any](prompt=PROMPT, completed_ids=frozenset(), max_tokens=TOKENS, seed=0)
        self.job = GenerationJob(
            **(usual | job),
            open_model=self._open,
            budget=self.budget,
            progress=self.progress.append,
            note=self.notes.append,
        )

    def attempt(self) -> GenerateCall:
        """Take everything that is yielded, up to an error."""
        self.raised_at_once = True
        try:
            items = self.provider.generate(self.job)
            self.raised_at_once = False
            for item in items:
                self.items.append(item)
        except Exception as error:
            self.error = error
        return self

    def run(self) -> GenerateCall:
        """Take everything that is yielded; an error is raised again."""
        self.attempt()
        if self.error is not None:
            raise self.error
        for item in self.items:
            check_types(item)
        return self

    def resumed(self, stored: Sequence[Item], **options: Any) -> GenerateCall:
        """The same job where these are stored."""
        return GenerateCall(
            self.provider,
            requests=self.job.requests,
            completed_ids=frozenset(item.id for item in stored),
            seen_responses=frozenset((item.query_id, item.response) for item in kept(stored)),
            **options,
        )

    @property
    def conversations(self) -> dict[str, Conversation]:
        """By their ids; at least one."""
        conversations = {item.id: item for item in kept(self.items)}
        reasons = {item.reason for item in self.items if isinstance(item, Rejection)}
        assert conversations, (
            f"no conversation is among the {len(self.items)} items "
            f"({'; '.join(sorted(reasons)) or 'no rejection, either'}): look for what is kept "
            f"between calls. A fake service must give answers of up to {TOKENS} tokens"
        )
        return conversations

    @property
    def messages(self) -> dict[str, tuple[Message, ...]]:
        """The conversations' turns, by id."""
        return {id_: each.messages for id_, each in self.conversations.items()}

    @property
    def requests(self) -> dict[str, GenerationRequest]:
        """By their ids."""
        return {request.id: request for request in self.job.requests}

    @property
    def answered(self) -> Iterator[tuple[Conversation, GenerationRequest, list[Sampled]]]:
        """Each conversation with its request and what the base model sampled for it."""
        for id_, each in self.conversations.items():
            if id_ in self.requests:
                yield each, self.requests[id_], self.rows(self.requests[id_])

    def rows(self, request: GenerationRequest) -> list[Sampled]:
        """What the base model sampled with the last words of a request's query before it."""
        words, read = one_line(request.query.messages[-1].content), self.model.renderer.text
        return [row for row in self.model.sampled if words in one_line(read(row.prompt))]

    def texts(self, rows: Sequence[Sampled]) -> set[str]:
        """What the base model said."""
        return {self.model.renderer.text(row.completion.tokens) for row in rows}

    def _open(self) -> Model:
        self.opened += 1
        if self._cannot_open:
            raise BakeError("model.name: there is no such model")
        return self.model


class GenerateTests(Suite):
    """The flags and fixtures of DataProviderSuite, which documents them."""

    samples: ClassVar[bool] = True
    uses_base_model: ClassVar[bool] = False
    brings_queries: ClassVar[bool] = False
    seeded: ClassVar[bool] = True
    several_turns: ClassVar[bool] = False
    paid: ClassVar[bool] = False
    temperatures: ClassVar[tuple[float, ...]] = (0.0, 0.7)
    broken: Any = None  # a fixture

    @pytest.fixture
    def generated(self, provider: DataProvider) -> GenerateCall:
        """A call in which nothing is out of the ordinary."""
        return self._call(provider).run()

    def _call(self, provider: DataProvider, **options: Any) -> GenerateCall:
        return GenerateCall(provider, self.temperatures, **options)


class CachedModel(RecordingModel):
    """Samples nothing twice, since a response depends on its own prompt, options and seed alone.

    With `framed`, each response begins and ends with white space, and is short whatever the limit.
    """

    def __init__(self, model: Model, framed: bool) -> None:
        super().__init__(model)
        self._framed = framed
        self._cache: dict[tuple[object, ...], Completion] = {}

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        """The other model's responses."""
        limit = TOKENS if self._framed else max_tokens
        rows = list(zip(map(tuple, prompts), temperatures, seeds, repeat(limit), strict=False))
        new = [index for index, row in enumerate(rows) if row not in self._cache]
        sampled = super().sample(
            [prompts[index] for index in new],
            max_tokens=limit,
            temperatures=[temperatures[index] for index in new],
            seeds=[seeds[index] for index in new],
        )
        self._cache |= {rows[new[place]]: completion for place, completion in sampled}
        before, after = (self.renderer.response(text, complete=False) for text in FRAME)
        for index, row in enumerate(rows):
            progress(1.0)
            whole = self._cache[row]
            if self._framed:
                tokens = (*before, *whole.tokens, *after)
                whole = Completion(tokens[:max_tokens], len(tokens) < max_tokens)
            yield index, whole


def recorded(*, framed: bool = False, **options: Any) -> RecordingModel:
    """The tiny model, recorded."""
    return RecordingModel(_tiny(framed), **options)


@cache
def _tiny(framed: bool) -> Model:
    return CachedModel(base_model(), framed)


def kept(items: Sequence[Item]) -> list[Conversation]:
    """Those that are conversations."""
    return [item for item in items if isinstance(item, Conversation)]


def one_line(text: str) -> str:
    """The text with single spaces for its white space."""
    return " ".join(text.split())


def check_types(item: object) -> None:
    """Refuse what is none of the types of the interface."""
    assert isinstance(item, Conversation | Rejection), (
        f"{item!r} came: expected promptbake's Conversation or Rejection"
    )
    where = f"{item.id!r}"
    assert isinstance(item.id, str), f"{where} is an id: expected text"
    if isinstance(item, Rejection):
        assert str(item.reason or "").strip(), (
            f"{where}: a rejection without a reason, which is counted and shown"
        )
        return
    turns = item.messages
    assert isinstance(turns, tuple), f"{where}: messages is a {type(turns).__name__}, not a tuple"
    assert turns, f"{where}: has no messages"
    for turn in turns:
        assert isinstance(turn, Message), f"{where}: {turn!r} is no promptbake Message"
    assert isinstance(item.complete, bool), f"{where}: `complete` is {item.complete!r}"
    assert isinstance(item.meta, Mapping), f"{where}: `meta` is {item.meta!r}"


def check_bake_error(error: Exception, why: str) -> None:
    """Refuse an error that a user would get with a traceback, or without a word."""
    assert isinstance(error, BakeError), (
        f"{why}, and {type(error).__name__} is raised: {error}. Raise BakeError"
    )
    assert str(error).strip(), f"{why}, and the BakeError says nothing"


def check_refused(call: GenerateCall, why: str) -> None:
    """Refuse what is not refused by the call of `generate` itself."""
    assert call.error is not None, f"{why}, and generate raises nothing"
    check_bake_error(call.error, why)
    assert call.raised_at_once, (
        f"{why}, and that is raised when the first answer is asked for: let generate be a function "
        "that checks and then returns a generator"
    )
