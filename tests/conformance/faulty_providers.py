"""Faulty data providers. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from faulty_suites import suite_for
from sampling_mistakes import BASE
from service_mistakes import SERVICE
from toy_providers import (
    KEY,
    VALUE,
    Answers,
    Good,
    GoodAndChoosy,
    GoodAndTidy,
    GoodBestOfTwo,
    GoodInBatches,
    GoodService,
    GoodShelf,
    GoodStream,
    GoodWithoutPrices,
    GoodWithoutSeeds,
)

from promptbake.interfaces import DataProvider, GenerationJob
from promptbake.testing import DataProviderSuite, Suite
from promptbake.types import Conversation, Message, Query


class TwoQueriesOfOneId(GoodShelf):
    def queries(self) -> Sequence[Query]:
        return [replace(query, id="shelf") for query in super().queries()]


class OneQuery(GoodShelf):
    def queries(self) -> Sequence[Query]:
        return super().queries()[:1]


class AnsweredQueries(GoodShelf):
    def asked(self, text: str) -> tuple[Message, ...]:
        return (Message("user", text), Message("assistant", "Hm."))


class QueriesWithASystemMessage(GoodShelf):
    def asked(self, text: str) -> tuple[Message, ...]:
        return (Message("system", "Be kind."), Message("user", text))


class NewIdsEachTime(GoodShelf):
    def queries(self) -> Sequence[Query]:
        number = random.getrandbits(30)
        return [replace(query, id=f"{query.id}-{number}") for query in super().queries()]


class UsedUpQueries(GoodShelf):
    def __init__(self) -> None:
        self.all: Iterator[Query] = iter(super().queries())

    def queries(self) -> Any:
        return list(self.all)


class ReadsItsFileOnce(GoodShelf):
    def __init__(self) -> None:
        self.lines = iter(super().stored())

    def stored(self) -> Any:
        return self.lines


class QueryIdsOfItsOwn(GoodShelf):
    def query_id(self, query: Query) -> str:
        return "file.jsonl"


class LeavesAQueryOut(GoodShelf):
    def stored(self) -> Sequence[Conversation]:
        return [each for each in super().stored() if not each.id.startswith("shelf-1")]


class OtherAnswersEachTime(GoodShelf):
    def __init__(self) -> None:
        self.calls = count()

    def answer(self, number: int) -> tuple[Message, ...]:
        return (Message("assistant", f"Arr, {next(self.calls)} of them."),)


class DependsOnTheSeed(GoodShelf):
    def generate(self, job: GenerationJob) -> Answers:
        for each in super().generate(job):
            assert isinstance(each, Conversation)
            answer = Message("assistant", f"Arr, {job.seed}.")
            yield replace(each, messages=(*each.messages[:-1], answer))


class OpensAModelInVain(GoodShelf):
    def generate(self, job: GenerationJob) -> Answers:
        job.open_model()
        return super().generate(job)


class TwoAnswersInARow(GoodShelf):
    def answer(self, number: int) -> tuple[Message, ...]:
        return super().answer(number) * 2


SHELF = {
    TwoQueriesOfOneId: "test_its_queries_have_ids_of_their_own",
    OneQuery: "test_it_brings_enough_queries_for_a_split",
    AnsweredQueries: "test_its_queries_are_turns_that_end_with_the_users",
    QueriesWithASystemMessage: "test_its_queries_are_turns_that_end_with_the_users",
    NewIdsEachTime: "test_it_brings_the_same_queries_again",
    UsedUpQueries: "test_it_brings_the_same_queries_again",
    ReadsItsFileOnce: "test_it_can_be_asked_again",
    QueryIdsOfItsOwn: "test_an_answer_names_its_query",
    LeavesAQueryOut: "test_it_answers_every_request_once",
    OtherAnswersEachTime: "test_it_samples_as_the_flags_say",
    DependsOnTheSeed: "test_it_samples_as_the_flags_say",
    OpensAModelInVain: "test_it_samples_as_the_flags_say",
    TwoAnswersInARow: "test_a_conversation_is_its_query_and_an_answer",
}

ALL_GOOD = (
    Good,
    GoodBestOfTwo,
    GoodStream,
    GoodAndTidy,
    GoodService,
    GoodWithoutSeeds,
    GoodWithoutPrices,
    GoodInBatches,
    GoodAndChoosy,
    GoodShelf,
)
DENIED = {  # flags that say less than is true
    "uses_base_model": (Good, "test_it_samples_as_the_flags_say"),
    "samples": (Good, "test_it_samples_as_the_flags_say"),
    "seeded": (Good, "test_the_seed_decides"),
    "paid": (GoodService, "test_it_holds_money_as_the_flag_says"),
    "several_turns": (GoodService, "test_it_makes_as_many_answers_as_turns"),
    "brings_queries": (GoodShelf, "test_it_brings_queries_as_the_flag_says"),
}
CLAIMED = {  # flags that say more
    "uses_base_model": (GoodService, "test_it_samples_as_the_flags_say"),
    "samples": (GoodShelf, "test_it_is_the_prompted_model_that_answers"),
    "seeded": (GoodWithoutSeeds, "test_the_seed_decides"),
    "paid": (Good, "test_it_holds_money_as_the_flag_says"),
    "several_turns": (Good, "test_it_makes_as_many_answers_as_turns"),
    "brings_queries": (Good, "test_it_brings_queries_as_the_flag_says"),
}


VERBATIM = "test_an_answer_is_what_the_model_said"


@pytest.mark.xfail(reason="it strips its answers on purpose", strict=True)
def tidies_on_purpose(self: DataProviderSuite, provider: DataProvider) -> None:
    DataProviderSuite.test_an_answer_is_what_the_model_said(self, provider)


def members(make: type) -> dict[str, Any]:
    """The flags and fixtures of a suite for something like one of the good ones."""
    if not issubclass(make, GoodService):
        stored = issubclass(make, GoodShelf)
        flags = {"samples": not stored, "brings_queries": stored, "uses_base_model": not stored}
        return flags | ({VERBATIM: tidies_on_purpose} if make is GoodAndTidy else {})

    @pytest.fixture(autouse=True)
    def key(self: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(KEY, VALUE)

    @pytest.fixture
    def broken(self: Suite) -> Any:
        return make(broken=True)

    flags = {"paid": True, "several_turns": True, "seeded": make is not GoodWithoutSeeds}
    return {"keys": (KEY,), "key": key, "broken": broken, **flags}


def suite(make: type, caught_by: str | None, **flags: bool) -> type[Suite]:
    return suite_for(DataProviderSuite, "provider", make, caught_by, **(members(make) | flags))


def suites() -> Iterator[tuple[str, type[Suite]]]:
    for make in ALL_GOOD:
        yield f"Test{make.__name__}", suite(make, None)
    for make, caught_by in (BASE | SERVICE | SHELF).items():
        yield f"Test{make.__name__}", suite(make, caught_by)
    for told, cases in ((False, DENIED), (True, CLAIMED)):
        for flag, (make, caught_by) in cases.items():
            yield f"Test_{flag}_is_not_{told}", suite(make, caught_by, **{flag: told})


globals().update(suites())
