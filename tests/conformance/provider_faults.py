"""What a mistake of a data provider changes, and the tests that catch more than one kind's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from faulty_suites import Fault, around, suites_for
from toy_providers import Items, Sampler, left

from promptbake.errors import BakeError
from promptbake.interfaces import GenerationJob
from promptbake.testing import DataProviderSuite, Suite
from promptbake.types import GenerationRequest, Message, Prompt, Query, Rejection

Members = Mapping[str, Any]
NO_PROMPT = Prompt("", "")
CALLS = count()

LIMIT = "test_an_answer_has_no_more_than_max_tokens"
DEPENDS = "test_the_answers_depend_on_the_prompt"
SEED = "test_the_answers_follow_the_seed_as_the_flag_says"
FREE = "test_an_estimate_is_in_numbers_and_sends_nothing"
RESERVES = "test_it_reserves_money_as_the_flag_says"
TURNS = "test_it_gives_as_many_answers_as_turns"
ONE_TURN = "test_it_refuses_several_turns"
FLAGS = "test_it_samples_as_the_flags_say"


def provider_suites(
    good: type, faults: Iterable[Fault], members: Members
) -> dict[str, type[Suite]]:
    """A suite of each faulty provider, and of the good one that they are made of."""
    suites = suites_for(DataProviderSuite, "provider", good, faults, **members)
    return {f"{name}Of{good.__name__}": suite for name, suite in suites.items()}


def as_if(change: Callable[[GenerationJob], Members], method: str = "generate") -> Members:
    """Works as if the job were another."""
    return {method: around(lambda good, job: good(replace(job, **change(job))))}


def requests(change: Callable[[GenerationRequest], Members]) -> Members:
    """Works as if the requests were others."""
    return as_if(lambda job: {
        "requests": tuple(replace(each, **change(each)) for each in job.requests)})  # fmt: skip


def asks(change: Callable[[tuple[Message, ...], GenerationJob], tuple[Message, ...]]) -> Members:
    """Works as if the queries had other turns."""
    return as_if(lambda job: {"requests": tuple(
        replace(each, query=replace(each.query, messages=change(each.query.messages, job)))
        for each in job.requests)})  # fmt: skip


def each(change: Callable[[Any, GenerationJob], object]) -> Members:
    """With something else in the place of each item."""
    return {"generate": around(lambda good, job: (change(item, job) for item in good(job)))}


def messages(change: Callable[[tuple[Message, ...], GenerationJob], Any]) -> Members:
    """With other turns of each conversation."""
    return each(lambda item, job: replace(item, messages=change(item.messages, job)))


def says(change: Callable[[str], str]) -> Members:
    """With another text of each answer."""
    return messages(lambda turns, job: (
        *turns[:-1], Message("assistant", change(turns[-1].content))))  # fmt: skip


def meta(change: Callable[[GenerationJob], Members]) -> Members:
    """With more in meta."""
    return each(lambda item, job: replace(item, meta={**item.meta, **change(job)}))


def queries(change: Callable[[Query], Members]) -> Members:
    """With other queries of its own."""
    return {"queries": around(lambda good: [replace(each, **change(each)) for each in good()])}


def items(change: Callable[[list[Any]], Sequence[Any]]) -> Members:
    """With another list of what is yielded, which is collected first."""

    def changed(good: Any, job: GenerationJob) -> Items:
        yield from change(list(good(job)))

    return {"generate": around(changed)}


def samples(change: Callable[..., Any]) -> Members:
    """With a base model that samples otherwise."""
    return as_if(lambda job: {"open_model": lambda: Sampler(job.open_model(), change)})


def first(method: str, action: Callable[..., object]) -> Members:
    """Does something before it calls a method; `action` is given the object and the arguments."""

    def acting(self: Any, good: Any, *args: Any) -> Any:
        action(self, *args)
        return good(*args)

    return {method: around(acting, with_self=True)}


def late(good: Any, job: GenerationJob) -> Items:
    """Does not begin before the first answer is asked for."""
    yield from good(job)


def swallows(kind: type[Exception], raises: Exception | None = None) -> Members:
    def swallowing(good: Any, job: GenerationJob) -> Items:
        try:
            yield from good(job)
        except kind as error:
            if raises is not None:
                raise raises from error

    return {"generate": around(swallowing)}


def rejects_what_failed(raises: bool) -> Members:
    def rejecting(good: Any, job: GenerationJob) -> Items:
        missing = {request.id: request for request in left(job)}
        try:
            for item in good(job):
                missing.pop(item.id)
                yield item
        except BakeError as error:
            for request in missing.values():
                yield Rejection(request.id, request.query.id, str(error))
            if raises:
                raise

    return {"generate": around(rejecting)}
