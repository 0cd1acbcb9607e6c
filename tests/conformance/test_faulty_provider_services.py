"""Faulty data providers that ask a paid service: their bills, keys, errors and turns."""

from __future__ import annotations

import logging
import os
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
    as_if,
    each,
    first,
    items,
    late,
    messages,
    meta,
    provider_suites,
    rejects_what_failed,
    requests,
    swallows,
)
from toy_providers import (
    DOLLARS,
    KEY,
    VALUE,
    GoodAndChoosy,
    GoodInBatches,
    GoodService,
    GoodWithoutPrices,
    GoodWithoutSeeds,
    Items,
    left,
)

from promptbake.costs import NoBudget, Usage
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import DataProvider, GenerationJob
from promptbake.testing import DataProviderSuite, Suite


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, VALUE)


def reserves_afterwards(self: GoodService, job: GenerationJob, key: str) -> Items:
    for request in left(job):
        replies = self.talk(job, request, key)
        self.reserve(job, request).commit(self.billed(replies))
        yield self.conversation(request, replies)


def reserves_for_all(self: GoodService, job: GenerationJob, key: str) -> Items:
    reservations = [self.reserve(job, request) for request in left(job)]
    for request, reservation in zip(left(job), reservations, strict=True):
        replies = self.talk(job, request, key)
        reservation.commit(self.billed(replies))
        yield self.conversation(request, replies)


def estimates_dollars_of_calls(good: Any, job: GenerationJob) -> Any:
    whole = good(job)
    return replace(whole, usage=Usage(whole.usage.calls, dollars=whole.usage.calls * DOLLARS))


def logs_its_key(self: object, job: object) -> None:
    logging.getLogger("toy").debug("with %s", os.environ[KEY])


COMMITS = "test_it_commits_what_it_reserves"
CAP = "test_it_keeps_to_the_cap"
NO_KEY = "test_no_key_is_seen"
NOT_SET = "test_it_asks_for_a_key_that_is_not_set"
SERVICE_ERROR = "test_an_error_of_the_service_is_not_swallowed"
SERVICE_HEAT = "test_each_request_is_sampled_at_its_temperature"

SERVICE = (
    Fault("spends_without_reserving", RESERVES, {"reserve": lambda self, *args: NoBudget()}),
    Fault("reserves_another_kind", RESERVES, {"kind": "chat"}),
    Fault("reserves_afterwards", "test_it_reserves_money_before_it_asks", {
        "items": reserves_afterwards}),
    Fault("reserves_too_little", COMMITS, {"reserve": lambda self, job, request: (
        job.budget.reserve("sample", Usage(1, output_tokens=1, dollars=DOLLARS)))}),
    Fault("never_commits", COMMITS, {
        "reserve": around(lambda good, *args: (good(*args), NoBudget())[1])}),
    Fault("commits_nothing", COMMITS, {"billed": lambda self, replies: Usage()}),
    Fault("swallows_the_refusal", CAP, swallows(BudgetError)),
    Fault("loses_what_it_paid_for", CAP, items(lambda found: found)),
    Fault("leaves_reservations_open_at_the_cap", CAP, {"items": reserves_for_all}),
    Fault("ignores_the_cap", CAP, {"priced": False, "check_cap": lambda self, job: None}),
    Fault("estimates_too_little", "test_an_estimate_covers_what_is_committed", {
        "estimate_cost": around(estimates_dollars_of_calls)}),
    Fault("reserves_to_estimate", FREE, first(
        "estimate_cost", lambda self, job: job.budget.reserve("sample", Usage()))),
    Fault("key_in_meta", NO_KEY, meta(lambda job: {"headers": f"Bearer {os.environ[KEY]}"})),
    Fault("key_in_a_log", NO_KEY, first("generate", logs_its_key)),
    Fault("key_in_its_repr", NO_KEY, {"__repr__": lambda self: f"Toy(key={os.environ[KEY]!r})"}),
    Fault("key_in_an_error", NO_KEY, {
        "failed": lambda self, error, key: BakeError(f"the service refuses the key {key}")}),
    Fault("shows_a_refused_key", "test_a_refused_key_is_not_seen", {
        "failed": lambda self, error, key: BakeError(str(error))}),
    Fault("takes_a_key_for_granted", NOT_SET, {"key": lambda self: os.environ[KEY]}),
    Fault("asks_for_the_key_late", NOT_SET, {"generate": around(late)}),
    Fault("failures_are_rejections", SERVICE_ERROR, rejects_what_failed(raises=False)),
    Fault("fails_with_a_traceback", SERVICE_ERROR, {
        "failed": lambda self, error, key: RuntimeError("the service failed")}),
    Fault("sends_no_prompt", DEPENDS, as_if(lambda job: {"prompt": NO_PROMPT})),
    Fault("sends_no_temperature", SERVICE_HEAT, requests(lambda each: {"temperature": 1.0})),
    Fault("sends_no_temperature_of_zero", SERVICE_HEAT, requests(
        lambda each: {"temperature": each.temperature or 1.0})),
    Fault("sends_no_limit", LIMIT, as_if(lambda job: {"max_tokens": 1024})),
    Fault("sends_no_seed", SEED, as_if(lambda job: {"seed": 0})),
    Fault("seeds_by_the_call", SEED, as_if(lambda job: {"seed": next(CALLS)})),
    Fault("cut_and_complete", "test_an_answer_that_was_cut_is_not_complete", each(
        lambda item, job: replace(item, complete=True))),
    Fault("one_turn_for_all", TURNS, as_if(lambda job: {"turns": 1})),
    Fault("the_user_has_the_last_word", TURNS, messages(lambda turns, job: turns[:-1])),
    Fault("is_not_paid", RESERVES, flags={"paid": False}),
    Fault("has_one_turn", ONE_TURN, flags={"several_turns": False}),
    Fault("service_is_the_base_model", FLAGS, flags={"uses_base_model": True}),
    Fault("is_seeded", SEED, flags={"seeded": True}, base=GoodWithoutSeeds),
)  # fmt: skip


@pytest.fixture(name="broken")
def failing(self: Suite, provider: GoodService) -> DataProvider:
    return type(provider)(broken=True)


IS_SERVICE = {"paid": True, "several_turns": True, "keys": (KEY,), "broken": failing}
GOOD = {
    GoodService: IS_SERVICE,
    GoodWithoutSeeds: IS_SERVICE | {"seeded": False},
    GoodWithoutPrices: IS_SERVICE,
    GoodInBatches: IS_SERVICE,
    GoodAndChoosy: IS_SERVICE,
}

globals().update(provider_suites(GoodService, SERVICE, IS_SERVICE))
for good, members in GOOD.items():
    globals()[f"Test{good.__name__}"] = suite_for(DataProviderSuite, "provider", good, **members)
