"""Faulty data providers that ask a paid service: their bills, keys, errors and turns."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from faulty_suites import suite_for, suites_for
from toy_providers import KEY, SERVICE, VALUE, provider

from promptbake.interfaces import DataProvider
from promptbake.testing import DataProviderSuite, Suite


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, VALUE)


AT_MOST = "job.budget.reserve(self.kind, self.at_most(job, request))"
RESERVES = f"reservation = {AT_MOST}"
ESTIMATE, ITEMS = "return CostEstimate(usage,", "return self.items(job, os.environ[KEY])"
YIELDS, ERROR = (
    "yield self.conversation(request, replies)",
    'BakeError("the service cannot be asked")',
)
SENT = "request.temperature, job.max_tokens, seed)"
WITHOUT_SEEDS = "derive(job.seed,", "derive(NEXT(),"
FAULTS = {
    "test_it_reserves_money_as_the_flag_says": {
        "spends_without_reserving": (RESERVES, "reservation = NoBudget()"),
        "reserves_another_kind": ('kind = "sample"', 'kind = "chat"'),
        "is_not_paid": ({"paid": False},),
    },
    "test_it_reserves_money_before_it_asks": {
        "reserves_afterwards": (
            RESERVES, "reservation = NoBudget()",
            "reservation.commit(sum(", f"{AT_MOST}.commit(sum("),
    },
    "test_it_commits_what_it_reserves": {
        "reserves_too_little": (
            "self.at_most(job, request))\n", "Usage(1, output_tokens=1, dollars=DOLLARS))\n"),
        "never_commits": (RESERVES, f"{AT_MOST}; reservation = NoBudget()"),
        "commits_nothing": ("(reply.usage for reply in replies)", "()"),
    },
    "test_it_keeps_to_the_cap": {
        "swallows_the_refusal": (
            RESERVES, f"try:\n                {RESERVES}\n            except BudgetError:\n"
            "                return"),
        "loses_what_it_paid_for": (ITEMS, "yield from list(self.items(job, os.environ[KEY]))"),
        "leaves_reservations_open_at_the_cap": (
            f"for request in left(job):\n            {RESERVES}",
            f"held = [{AT_MOST} for request in left(job)]\n"
            "        for request, reservation in zip(left(job), held):"),
        "ignores_the_cap": (
            "priced = True", "priced = False", "if job.budget.capped and", "if False and"),
    },
    "test_an_estimate_covers_what_is_committed": {
        "estimates_too_little": (
            ESTIMATE, "usage = Usage(usage.calls, dollars=usage.calls * DOLLARS)\n"
            f"        {ESTIMATE}"),
    },
    "test_an_estimate_is_in_numbers_and_sends_nothing": {
        "reserves_to_estimate": (
            ESTIMATE, f"job.budget.reserve('sample', Usage())\n        {ESTIMATE}"),
    },
    "test_no_key_is_seen": {
        "key_in_meta": ('"model": "toy"', '"headers": f"Bearer {os.environ[KEY]}"'),
        "key_in_a_log": (
            ITEMS, f"logging.getLogger('toy').debug(os.environ[KEY])\n        {ITEMS}"),
        "key_in_its_repr": (
            "    def queries(", "    __repr__ = lambda self: os.environ[KEY]\n\n    def queries("),
        "key_in_an_error": (ERROR, 'BakeError(f"the service refuses the key {key}")'),
    },
    "test_a_refused_key_is_not_seen": {"shows_a_refused_key": (ERROR, "BakeError(str(error))")},
    "test_it_asks_for_a_key_that_is_not_set": {
        "takes_a_key_for_granted": ("not os.environ.get(KEY)", "not os.environ[KEY]"),
        "asks_for_the_key_late": (ITEMS, ITEMS.replace("return", "yield from")),
    },
    "test_an_error_of_the_service_is_not_swallowed": {
        "failures_are_rejections": (
            "reservation.commit(Usage())\n                raise", "reservation.commit(Usage())\n"
            "                yield Rejection(request.id, request.query.id, 'it has failed')\n"
            "                continue"),
        "fails_with_a_traceback": (ERROR, "RuntimeError('the service failed')"),
    },
    "test_the_answers_depend_on_the_prompt": {
        "sends_no_prompt": ("if job.prompt.system:", "if False:"),
    },
    "test_each_request_is_sampled_at_its_temperature": {
        "sends_no_temperature": (SENT, "1.0, job.max_tokens, seed)"),
        "sends_no_temperature_of_zero": (
            SENT, "request.temperature or 1.0, job.max_tokens, seed)"),
    },
    "test_an_answer_has_no_more_than_max_tokens": {
        "sends_no_limit": (SENT, "request.temperature, 1024, seed)"),
    },
    "test_the_answers_follow_the_seed_as_the_flag_says": {
        "sends_no_seed": ("derive(job.seed,", "derive(0,"),
        "seeds_by_the_call": WITHOUT_SEEDS,
        "is_seeded": (*WITHOUT_SEEDS, {"seeded": True}),
    },
    "test_an_answer_that_was_cut_is_not_complete": {
        "cut_and_complete": ("replies[-1].complete", "True"),
    },
    "test_it_gives_as_many_answers_as_turns": {
        "one_turn_for_all": ("in range(2 * job.turns - 1):", "in range(1):"),
        "the_user_has_the_last_word": ("tuple(turns), complete", "tuple(turns[:-1]), complete"),
    },
    "test_it_refuses_several_turns": {"has_one_turn": ({"several_turns": False},)},
    "test_it_samples_as_the_flags_say": {
        "service_is_the_base_model": ({"uses_base_model": True},),
    },
}  # fmt: skip


@pytest.fixture(name="broken")
def failing(self: Suite, provider: Any) -> DataProvider:
    return type(provider)(broken=True)


IN_BATCHES = (  # reserves for five requests at a time
    "def items(", """def items(self, job, key):
        requests = left(job)
        for start in range(0, len(requests), 5):
            batch = requests[start : start + 5]
            usage = sum((self.at_most(job, request) for request in batch), Usage())
            reservation = job.budget.reserve(self.kind, usage)
            replies = [self.talk(job, request, key) for request in batch]
            reservation.commit(sum((each.usage for some in replies for each in some), Usage()))
            yield from map(self.conversation, batch, replies)

    def one_by_one(""",
)  # fmt: skip
CHOOSY = (  # leaves out what was cut
    YIELDS, """each = self.conversation(request, replies)
            cut = Rejection(each.id, each.query_id, "it was cut", each.response)
            yield each if each.complete else cut""",
)  # fmt: skip
IS_SERVICE = {"paid": True, "several_turns": True, "keys": (KEY,), "broken": failing}
GOOD = {
    "": ((), {}),
    "WithoutSeeds": (WITHOUT_SEEDS, {"seeded": False}),
    "WithoutPrices": (("priced = True", "priced = False"), {}),
    "InBatches": (IN_BATCHES, {}),
    "AndChoosy": (CHOOSY, {}),
}

make = partial(provider, SERVICE)
globals().update(suites_for(DataProviderSuite, "provider", make, FAULTS, **IS_SERVICE))
for name, (edits, flags) in GOOD.items():
    make = partial(provider, SERVICE, *edits)
    flags = IS_SERVICE | flags
    globals()[f"TestGood{name}"] = suite_for(DataProviderSuite, "provider", make, **flags)
