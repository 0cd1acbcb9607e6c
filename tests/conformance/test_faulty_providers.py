"""DataProviderSuite passes good data providers; each faulty one fails the test meant for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from faulty_suites import Fault, around, suite_for
from provider_faults import (
    CALLS,
    DEPENDS,
    FLAGS,
    FREE,
    LIMIT,
    NO_PROMPT,
    ONE_TURN,
    RESERVES,
    SEED,
    TURNS,
    Members,
    as_if,
    asks,
    each,
    first,
    items,
    late,
    messages,
    meta,
    provider_suites,
    queries,
    rejects_what_failed,
    requests,
    samples,
    says,
    swallows,
)
from toy_providers import Good, GoodAndTidy, GoodBestOfTwo, GoodShelf, GoodStream, Items, left

from promptbake.errors import BakeError
from promptbake.interfaces import DataProvider, GenerationJob
from promptbake.testing import DataProviderSuite
from promptbake.types import Conversation, Message, Prompt, Rejection


def pasted(turns: tuple[Message, ...], job: GenerationJob) -> tuple[Message, ...]:
    return (*turns[:-1], Message("user", f"{job.prompt.text}\n\n{turns[-1].content}"))


def keeps_the_first_prompt(by: Callable[[GenerationJob], object]) -> Members:
    prompts = dict[object, Any]()
    return as_if(lambda job: {"prompt": prompts.setdefault(by(job), job.prompt)})


def finds_the_query_by_its_words(item: Conversation, job: GenerationJob) -> Conversation:
    by_words = {request.query.messages: request.query.id for request in job.requests}
    return replace(item, query_id=by_words[item.messages[:-1]])


def ignores_the_index(good: Any, prompts: Any, **options: Any) -> Any:
    return ((place, last) for place, (_, last) in enumerate(good(prompts, **options)))


def seeds_by_the_place(good: Any, job: GenerationJob) -> Items:
    places = {request.id: str(place) for place, request in enumerate(left(job))}
    ids = {place: id_ for id_, place in places.items()}
    renamed = tuple(replace(request, id=places[request.id]) for request in left(job))
    for item in good(replace(job, requests=renamed)):
        yield replace(item, id=ids[item.id])


def samples_what_is_completed(good: Any, job: GenerationJob) -> Items:
    whole = good(replace(job, completed_ids=frozenset()))
    return (item for item in whole if item.id not in job.completed_ids)


def rejects_without_a_reason(item: Conversation, job: object) -> Conversation | Rejection:
    return item if item.query_id != "q0" else Rejection(item.id, item.query_id, "")


def rejects_what_it_saw(item: Conversation, job: object) -> Conversation | Rejection:
    if item.messages in SEEN:
        return Rejection(item.id, item.query_id, "it is identical to an earlier one")
    SEEN.add(item.messages)
    return item


def prints(item: Conversation, job: object) -> Conversation:
    print(item.id)  # noqa: T201
    return item


def reports_percent(good: Any, job: GenerationJob) -> Items:
    for number, item in enumerate(good(job)):
        job.progress(100 * number / len(job.requests))
        yield item


SEEN = set[tuple[Message, ...]]()
QUERIES, STORED = iter(GoodShelf().queries()), iter(GoodShelf().stored())  # read once

LEAK = "test_the_prompt_is_in_nothing_that_it_yields"
ONCE = "test_it_answers_every_request_once"
NAMES = "test_an_answer_names_its_query"
QUERY = "test_a_conversation_is_its_query_and_an_answer"
READS = "test_the_base_model_reads_the_prompt_and_the_query"
SAID = "test_an_answer_is_what_the_model_said"
HEAT = "test_the_base_model_samples_at_each_requests_temperature"
COMPLETE = "test_complete_is_that_of_the_completion"
READY = "test_it_yields_each_answer_as_it_is_ready"
ERROR = "test_an_error_of_the_base_model_is_not_swallowed"
FLAT = "test_its_meta_is_flat"
TYPES = "test_its_items_are_of_the_interfaces_types"
AGAIN = "test_it_can_be_called_again"
ENDS = "test_its_queries_end_with_the_users_turn"
SAME = "test_it_brings_the_same_queries_again"
BRINGS = "test_it_brings_queries_as_the_flag_says"

BASE = (
    Fault("saves_the_system_message", LEAK, messages(
        lambda turns, job: (Message("system", job.prompt.text), *turns))),
    Fault("saves_the_prompt_in_the_users_turn", LEAK, messages(
        lambda turns, job: (*pasted(turns[:-1], job), turns[-1]))),
    Fault("saves_a_part_of_the_prompt_in_meta", LEAK, meta(
        lambda job: {"system": job.prompt.text[:30]})),
    Fault("leaves_out_the_last", ONCE, items(lambda found: found[:-1])),
    Fault("yields_one_twice", ONCE, items(lambda found: [*found, found[2]])),
    Fault("takes_the_querys_id", ONCE, each(lambda item, job: replace(item, id=item.query_id))),
    Fault("finds_queries_by_their_words", NAMES, each(finds_the_query_by_its_words)),
    Fault("strips_the_users_words", QUERY, messages(lambda turns, job: tuple(
        Message(turn.role, turn.content.strip()) for turn in turns))),
    Fault("saves_the_last_turn_alone", QUERY, messages(lambda turns, job: turns[-2:])),
    Fault("ends_with_the_user", QUERY, messages(
        lambda turns, job: (*turns, Message("user", "Thank you.")))),
    Fault("reads_the_last_turn_alone", READS, asks(lambda turns, job: turns[-1:])),
    Fault("ignores_the_prompt", READS, as_if(lambda job: {"prompt": NO_PROMPT})),
    Fault("keeps_the_first_prompt", READS, keeps_the_first_prompt(lambda job: None)),
    Fault("keeps_prompts_by_their_names", READS, keeps_the_first_prompt(
        lambda job: job.prompt.name)),
    Fault("pastes_the_prompt_into_the_users_turn", READS, asks(pasted)),
    Fault("sends_an_empty_system_message", READS, as_if(
        lambda job: {"prompt": Prompt("", job.prompt.text or " ")})),
    Fault("ignores_the_prompts_text", DEPENDS, as_if(lambda job: {"prompt": NO_PROMPT})),
    Fault("strips", SAID, says(str.strip)),
    Fault("lowers", SAID, says(str.lower)),
    Fault("joins_lines", SAID, says(lambda text: text.replace("\n", " "))),
    Fault("one_temperature", HEAT, requests(lambda each: {"temperature": 1.0})),
    Fault("takes_zero_for_nothing", HEAT, requests(
        lambda each: {"temperature": each.temperature or 1.0})),
    Fault("omits_the_temperature", "test_meta_has_the_temperature", each(
        lambda item, job: replace(item, meta={"category": item.meta["category"]}))),
    Fault("a_limit_of_its_own", LIMIT, as_if(lambda job: {"max_tokens": 12})),
    Fault("short_responses_alone", "test_an_answer_may_have_max_tokens", as_if(
        lambda job: {"max_tokens": min(job.max_tokens, 8)})),
    Fault("always_complete", COMPLETE, each(lambda item, job: replace(item, complete=True))),
    Fault("never_complete", COMPLETE, each(lambda item, job: replace(item, complete=False))),
    Fault("ignores_the_index", "test_each_answer_is_that_of_its_own_request", samples(
        ignores_the_index)),
    Fault("unseeded", SEED, as_if(lambda job: {"seed": random.getrandbits(62)})),
    Fault("ignores_the_seed", SEED, as_if(lambda job: {"seed": 0})),
    Fault("one_seed_for_all", "test_each_request_has_a_seed_of_its_own", samples(
        lambda good, prompts, **options: good(prompts, **options | {"seeds": [0] * len(prompts)}))),
    Fault("seeds_by_the_place", "test_an_answer_does_not_depend_on_what_is_completed", {
        "generate": around(seeds_by_the_place)}),
    Fault("yields_what_is_completed", "test_what_is_completed_is_not_yielded_again", as_if(
        lambda job: {"completed_ids": frozenset()})),
    Fault("samples_what_is_completed", "test_where_all_is_completed_nothing_is_asked_for", {
        "generate": around(samples_what_is_completed)}),
    Fault("collects_all", READY, items(lambda found: found)),
    Fault("gives_a_list", READY, {"generate": around(lambda good, job: list(good(job)))}),
    Fault("opens_the_model_late", "test_it_refuses_at_once_where_there_is_no_base_model", {
        "generate": around(late)}),
    Fault("swallows_errors", ERROR, swallows(Exception)),
    Fault("wraps_errors", ERROR, swallows(BakeError, RuntimeError("generation has failed"))),
    Fault("rejects_what_failed", ERROR, rejects_what_failed(raises=True)),
    Fault("ignores_turns", ONE_TURN, as_if(lambda job: {"turns": 1})),
    Fault("nests_its_meta", FLAT, meta(lambda job: {"usage": {"tokens": 3}})),
    Fault("not_a_number_in_meta", FLAT, meta(lambda job: {"logprob": float("nan")})),
    Fault("turns_as_dicts", TYPES, messages(lambda turns, job: tuple(map(vars, turns)))),
    Fault("turns_as_a_list", TYPES, messages(lambda turns, job: list(turns))),
    Fault("rejects_without_a_reason", TYPES, each(rejects_without_a_reason)),
    Fault("half_a_character", "test_its_conversations_can_be_stored_and_read", says(
        lambda text: text + "\ud83c")),
    Fault("rejects_what_it_saw", AGAIN, each(rejects_what_it_saw)),
    Fault("prints", "test_it_prints_nothing", each(prints)),
    Fault("reports_percent", "test_it_reports_its_progress_in_responses", {
        "generate": around(reports_percent)}),
    Fault("samples_to_estimate", FREE, first("estimate_cost", lambda self, job: list(
        self.generate(replace(job, requests=job.requests[:1]))))),
    Fault("estimates_what_is_completed", "test_an_estimate_is_for_what_is_not_completed", as_if(
        lambda job: {"completed_ids": frozenset()}, "estimate_cost")),
    Fault("estimates_short_responses", "test_an_estimate_covers_what_is_sampled", as_if(
        lambda job: {"max_tokens": job.max_tokens // 2}, "estimate_cost")),
    Fault("does_not_use_the_base_model", FLAGS, flags={"uses_base_model": False}),
    Fault("does_not_sample", FLAGS, flags={"samples": False}),
    Fault("is_not_seeded", SEED, flags={"seeded": False}),
    Fault("is_paid", RESERVES, flags={"paid": True}),
    Fault("has_several_turns", TURNS, flags={"several_turns": True}),
    Fault("has_queries", BRINGS, flags={"brings_queries": True}),
)  # fmt: skip
SHELF = (
    Fault("two_queries_of_one_id", "test_its_queries_have_ids_of_their_own", queries(
        lambda query: {"id": "shelf"})),
    Fault("one_query", "test_it_brings_enough_queries_for_a_split", {
        "queries": around(lambda good: good()[:1])}),
    Fault("answered_queries", ENDS, queries(
        lambda query: {"messages": (*query.messages, Message("assistant", "Hm."))})),
    Fault("queries_with_a_system_message", ENDS, queries(
        lambda query: {"messages": (Message("system", "Be kind."), *query.messages)})),
    Fault("new_ids_each_time", SAME, queries(
        lambda query: {"id": f"{query.id}-{random.random()}"})),
    Fault("used_up_queries", SAME, {"queries": lambda self: list(QUERIES)}),
    Fault("reads_its_file_once", AGAIN, {"stored": lambda self: STORED}),
    Fault("query_ids_of_its_own", NAMES, each(
        lambda item, job: replace(item, query_id="file.jsonl"))),
    Fault("leaves_a_query_out", ONCE, items(
        lambda found: [item for item in found if not item.id.startswith("shelf-1")])),
    Fault("other_answers_each_time", FLAGS, says(lambda text: f"Arr, {next(CALLS)} of them.")),
    Fault("depends_on_the_seed", FLAGS, messages(
        lambda turns, job: (*turns[:-1], Message("assistant", f"Arr, {job.seed}.")))),
    Fault("opens_a_model_in_vain", FLAGS, first("generate", lambda self, job: job.open_model())),
    Fault("two_answers_in_a_row", QUERY, messages(lambda turns, job: (*turns, turns[-1]))),
    Fault("samples", DEPENDS, flags={"samples": True}),
    Fault("has_no_queries", BRINGS, flags={"brings_queries": False}),
)  # fmt: skip


@pytest.mark.xfail(reason="it strips its answers on purpose", strict=True)
def strips_on_purpose(self: DataProviderSuite, provider: DataProvider) -> None:
    DataProviderSuite.test_an_answer_is_what_the_model_said(self, provider)


USES_BASE_MODEL = {"uses_base_model": True}
IS_SHELF = {"samples": False, "brings_queries": True}
GOOD = {
    GoodBestOfTwo: USES_BASE_MODEL,
    GoodStream: USES_BASE_MODEL,
    GoodAndTidy: USES_BASE_MODEL | {SAID: strips_on_purpose},
    GoodShelf: IS_SHELF,
}

for faults, good, members in ((SHELF, GoodShelf, IS_SHELF), (BASE, Good, USES_BASE_MODEL)):
    globals().update(provider_suites(good, faults, members))
for good, members in GOOD.items():
    globals()[f"Test{good.__name__}"] = suite_for(DataProviderSuite, "provider", good, **members)
