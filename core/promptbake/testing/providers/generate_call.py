"""One job for a data provider, and all that is seen of the work on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, ClassVar

import pytest

from promptbake.dataset.queries import plan, split
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
ODD = ("\n  A", "\n\n z ")  # what every odd response begins and ends with
BATCH = 4  # prompts that the base model is best asked at a time: some batches, and a rest
Found = Conversation | Rejection


def questions() -> tuple[Query, ...]:
    """Of one turn and of three, with odd white space, and the same words under two ids."""
    first, second, *others = queries()
    talk = (
        *second.messages,
        Message("assistant", "A poor man."),
        Message("user", "And your ship?"),
    )
    odd = (Message("user", "  Wie heißt\r\n du? \U0001f3f4\n\n"),)
    named = {"three-turns": talk, "odd": odd, "again": first.messages}
    return (first, second, *others, *(Query(id_, turns) for id_, turns in named.items()))


class Trial:
    """A call of `generate`: the job that it is given, and what comes of it.

    `found` has what was yielded, up to the error if there was one; `at_once` says whether that was
    raised by the call itself.
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
        self.model = model or recording()
        self.budget = budget or RecordingBudget()
        self.queries = {each.id: each for each in tuple(provider.queries()) or questions()}
        self.opened = 0
        self.progress: list[float] = []
        self.notes: list[str] = []
        self.found: list[Found] = []
        self.error: Exception | None = None
        self.at_once = False
        self._cannot_open = cannot_open
        usual = dict[str, Any](prompt=PROMPT, done=frozenset(), max_tokens=TOKENS, seed=0)
        if "plan" not in job:  # as the data stage makes it
            asked = tuple(provider.queries()) or questions()
            job["plan"] = plan(split(asked, held_out=1, seed=0), temperatures)
        self.job = GenerationJob(
            **(usual | job),
            open_model=self._open,
            budget=self.budget,
            progress=self.progress.append,
            note=self.notes.append,
        )

    def attempt(self) -> Trial:
        """Take all that comes, up to an error."""
        self.at_once = True
        try:
            answers = self.provider.generate(self.job)
            self.at_once = False
            for each in answers:
                self.found.append(each)
        except Exception as error:
            self.error = error
        return self

    def run(self) -> Trial:
        """Take all that comes; an error goes on."""
        self.attempt()
        if self.error is not None:
            raise self.error
        for each in self.found:
            check_types(each)
        return self

    def after(self, stored: Sequence[Found], **options: Any) -> Trial:
        """The same job where these are stored."""
        return Trial(
            self.provider,
            plan=self.job.requests,
            done=frozenset(each.id for each in stored),
            seen=frozenset((each.query_id, each.response) for each in kept(stored)),
            **options,
        )

    @property
    def conversations(self) -> dict[str, Conversation]:
        """By their ids; at least one."""
        found = kept(self.found)
        reasons = {each.reason for each in self.found if isinstance(each, Rejection)}
        assert found, (
            f"{len(self.found)} items came for {len(self.job.requests)} requests, and no conversation "
            f"is among them ({'; '.join(sorted(reasons)) or 'no rejection, either'}): look for "
            "what is kept between calls. A service's double must give answers that are kept, of "
            f"up to {TOKENS} tokens"
        )
        return {each.id: each for each in found}

    @property
    def words(self) -> dict[str, tuple[Message, ...]]:
        """The turns of the conversations, by their ids."""
        return {id_: each.messages for id_, each in self.conversations.items()}

    @property
    def asked(self) -> dict[str, GenerationRequest]:
        """The requests by their ids."""
        return {request.id: request for request in self.job.requests}

    def rows(self, request: GenerationRequest, prompted: bool = True) -> list[Sampled]:
        """What the base model was asked with the last words of a request's query.

        With all its words, and the prompt's, if `prompted`.
        """
        words = [each.content for each in request.query.messages]
        wanted = [self.job.prompt.text, *words] if prompted else words[-1:]
        read = self.model.renderer.text
        return [
            row
            for row in self.model.sampled
            if all(one_line(each) in one_line(read(row.prompt)) for each in wanted)
        ]

    def answers(self, rows: Sequence[Sampled]) -> set[str]:
        """What the base model said."""
        return {self.model.renderer.text(row.completion.tokens) for row in rows}

    def _open(self) -> Model:
        self.opened += 1
        if self._cannot_open:
            raise BakeError("model.name: there is no such model")
        return self.model


class TrialSuite(Suite):
    """What the parts of the suite for data providers share: the flags, which that one documents."""

    samples: ClassVar[bool] = True
    uses_base_model: ClassVar[bool] = False
    brings_queries: ClassVar[bool] = False
    seeded: ClassVar[bool] = True
    several_turns: ClassVar[bool] = False
    paid: ClassVar[bool] = False
    temperatures: ClassVar[tuple[float, ...]] = (0.0, 0.7)

    @pytest.fixture
    def broken(self) -> DataProvider | None:
        """The provider where its service answers with errors alone; None where there is none."""
        return None

    def _trial(self, provider: DataProvider, **options: Any) -> Trial:
        return Trial(provider, self.temperatures, **options)


def kept(found: Sequence[Found]) -> list[Conversation]:
    """Those that are conversations."""
    return [each for each in found if isinstance(each, Conversation)]


def one_line(text: str) -> str:
    """The text with single spaces for its white space."""
    return " ".join(text.split())


def recording(**options: Any) -> RecordingModel:
    """The tiny model, recorded."""
    return RecordingModel(_tiny(), **options)


class Remembering(RecordingModel):
    """Samples nothing twice, since a response depends on what was asked for it alone."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._known: dict[tuple[object, ...], Completion] = {}

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
        rows = zip(map(tuple, prompts), temperatures, seeds, strict=True)
        asked = [(*row, max_tokens) for row in rows]
        new = [index for index, each in enumerate(asked) if each not in self._known]
        found = super().sample(
            [prompts[index] for index in new],
            max_tokens=max_tokens,
            temperatures=[temperatures[index] for index in new],
            seeds=[seeds[index] for index in new],
        )
        self._known |= {asked[new[place]]: completion for place, completion in found}
        for index, each in enumerate(asked):
            progress(1.0)
            yield index, self._known[each]

    def stream(
        self, prompt: TokenIds, *, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[int]:
        """The tokens of such a response."""
        ((_, found),) = self.sample(
            [prompt], max_tokens=max_tokens, temperatures=[temperature], seeds=[seed]
        )
        yield from found.tokens


class Odd(Remembering):
    """Begins and ends each response with white space, and keeps it short, whatever the limit."""

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        """The other model's responses, between the odd words."""
        before, after = (self.renderer.response(text, complete=False) for text in ODD)
        found = super().sample(
            prompts,
            max_tokens=TOKENS,
            temperatures=temperatures,
            seeds=seeds,
            progress=progress,
        )
        for index, each in found:
            tokens = (*before, *each.tokens, *after)
            yield index, Completion(tokens[:max_tokens], len(tokens) < max_tokens)


def odd() -> RecordingModel:
    """The tiny model with odd responses, recorded."""
    return RecordingModel(Odd(_tiny()))


@cache
def _tiny() -> Model:
    return Remembering(base_model())


def check_types(found: object) -> None:
    """Refuse what is none of the types of the interface."""
    assert isinstance(found, Conversation | Rejection), (
        f"{found!r} came: expected promptbake's Conversation or Rejection"
    )
    where = f"{found.id!r}"
    assert isinstance(found.id, str), f"{where} is an id: expected text"
    if isinstance(found, Rejection):
        assert str(found.reason or "").strip(), (
            f"{where}: a rejection without a reason, which is counted and shown"
        )
        return
    turns = found.messages
    assert isinstance(turns, tuple), f"{where}: messages is a {type(turns).__name__}, not a tuple"
    assert turns, f"{where}: has no messages"
    for turn in turns:
        assert isinstance(turn, Message), f"{where}: {turn!r} is no promptbake Message"
    assert isinstance(found.complete, bool), f"{where}: `complete` is {found.complete!r}"


def check_mendable(error: Exception, why: str) -> None:
    """Refuse an error that a user would get with a traceback, or without a word."""
    assert isinstance(error, BakeError), (
        f"{why}, and {type(error).__name__} is raised: {error}. Raise BakeError, whose message "
        "the user gets without a traceback"
    )
    assert str(error).strip(), f"{why}, and the BakeError says nothing"


def check_refused(trial: Trial, why: str) -> None:
    """Refuse what is not refused by the call of `generate` itself."""
    assert trial.error is not None, f"{why}, and generate raises nothing"
    check_mendable(trial.error, why)
    assert trial.at_once, (
        f"{why}, and that is raised when the first answer is asked for: by then a new run has "
        "begun. Let generate be a function that checks and then returns a generator"
    )
