"""Mistakes of data providers that pay a service."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from toy_providers import DOLLARS, KEY, Answers, GoodService, Reply, left, total

from promptbake.costs import CostEstimate, Usage
from promptbake.errors import BakeError, BudgetError
from promptbake.interfaces import GenerationJob
from promptbake.seeds import derive
from promptbake.types import GenerationRequest, Message, Rejection


class SpendsWithoutHolding(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            yield self.answered(job, request, self.talk(job, request, key))


class HoldsAfterwards(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            replies = self.talk(job, request, key)
            held = job.budget.reserve("sample", self.at_most(job, request))
            held.commit(total(replies))
            yield self.answered(job, request, replies)


class HoldsTooLittle(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            usage = Usage(1, output_tokens=1, dollars=DOLLARS)
            held = job.budget.reserve("sample", usage)
            replies = self.talk(job, request, key)
            held.commit(total(replies))
            yield self.answered(job, request, replies)


class NeverSettles(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            job.budget.reserve("sample", self.at_most(job, request))
            yield self.answered(job, request, self.talk(job, request, key))


class SettlesNothing(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            job.budget.reserve("sample", self.at_most(job, request)).commit(Usage())
            yield self.answered(job, request, self.talk(job, request, key))


class HoldsAnotherKind(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            held = job.budget.reserve("chat", self.at_most(job, request))
            replies = self.talk(job, request, key)
            held.commit(total(replies))
            yield self.answered(job, request, replies)


class SwallowsTheRefusal(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        try:
            yield from super().made(job, key)
        except BudgetError:
            return


class LosesWhatItPaidFor(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        yield from list(super().made(job, key))


class LeavesHoldsOpenAtTheCap(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        holds = [job.budget.reserve("sample", self.at_most(job, each)) for each in left(job)]
        for request, held in zip(left(job), holds, strict=True):
            replies = self.talk(job, request, key)
            held.commit(total(replies))
            yield self.answered(job, request, replies)


class QuotesTooLittle(GoodService):
    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        whole = super().estimate_cost(job)
        return replace(whole, usage=Usage(whole.usage.calls, dollars=whole.usage.calls * DOLLARS))


class QuoteHolds(GoodService):
    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        whole = super().estimate_cost(job)
        job.budget.reserve("sample", whole.usage)
        return whole


class IgnoresTheCap(GoodService):
    priced = False

    def generate(self, job: GenerationJob) -> Answers:
        return self.made(job, self.key())


class KeyInMeta(GoodService):
    def meta(self, request: GenerationRequest) -> dict[str, Any]:
        return {**super().meta(request), "headers": f"Authorization: Bearer {os.environ[KEY]}"}


class KeyInALog(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        logging.getLogger("toy").debug("asking with %s", {"Authorization": key})
        yield from super().made(job, key)


class KeyInItsName(GoodService):
    def __repr__(self) -> str:
        return f"GoodService(key={os.environ[KEY]!r})"


class KeyInAnError(GoodService):
    def failed(self, error: ConnectionError, key: str) -> Exception:
        return BakeError(f"the service refuses the key {key}: {error}")


class TakesAKeyForGranted(GoodService):
    def key(self) -> str:
        return os.environ[KEY]


class AsksForTheKeyLate(GoodService):
    def generate(self, job: GenerationJob) -> Answers:
        yield from super().generate(job)


class FailuresAreRejections(GoodService):
    def made(self, job: GenerationJob, key: str) -> Answers:
        for request in left(job):
            held = job.budget.reserve("sample", self.at_most(job, request))
            try:
                replies = self.talk(job, request, key)
            except BakeError:
                held.commit(Usage())
                yield Rejection(request.id, request.query.id, "the service failed")
                continue
            held.commit(total(replies))
            yield self.answered(job, request, replies)


class FailsWithATraceback(GoodService):
    def failed(self, error: ConnectionError, key: str) -> Exception:
        return RuntimeError("the service failed")


class SendsNoPrompt(GoodService):
    def sent(self, job: GenerationJob, turns: Sequence[Message]) -> Sequence[Message]:
        return turns


class SendsNoTemperature(GoodService):
    def temperature(self, request: GenerationRequest) -> float:
        return 1.0


class SendsNoTemperatureOfZero(GoodService):
    def temperature(self, request: GenerationRequest) -> float:
        return request.temperature or 1.0


class SendsNoLimit(GoodService):
    def limit(self, job: GenerationJob) -> int:
        return 1024


class SendsNoSeed(GoodService):
    def seed(self, job: GenerationJob, request: GenerationRequest, turn: int) -> int:
        return 0


class SeedsByTheCall(GoodService):
    def __init__(self, broken: bool = False) -> None:
        super().__init__(broken)
        self.calls = count()

    def seed(self, job: GenerationJob, request: GenerationRequest, turn: int) -> int:
        return derive(job.seed, next(self.calls))


class CutAndComplete(GoodService):
    def complete(self, replies: Sequence[Reply]) -> bool:
        return True


class OneTurnForAll(GoodService):
    def generate(self, job: GenerationJob) -> Answers:
        return super().generate(replace(job, turns=1))


class UserHasTheLastWord(GoodService):
    def answered(
        self, job: GenerationJob, request: GenerationRequest, replies: Sequence[Reply]
    ) -> Any:
        return super().answered(job, request, replies[: len(replies) - (job.turns > 1)])


SERVICE = {
    SpendsWithoutHolding: "test_it_holds_money_as_the_flag_says",
    HoldsAnotherKind: "test_it_holds_money_as_the_flag_says",
    HoldsAfterwards: "test_it_holds_money_before_it_asks",
    HoldsTooLittle: "test_it_settles_what_it_holds",
    NeverSettles: "test_it_settles_what_it_holds",
    SettlesNothing: "test_it_settles_what_it_holds",
    SwallowsTheRefusal: "test_it_stops_where_the_budget_refuses",
    LosesWhatItPaidFor: "test_it_stops_where_the_budget_refuses",
    LeavesHoldsOpenAtTheCap: "test_it_stops_where_the_budget_refuses",
    QuotesTooLittle: "test_a_quote_covers_what_it_comes_to",
    QuoteHolds: "test_a_quote_is_in_numbers_and_sends_nothing",
    IgnoresTheCap: "test_under_a_cap_it_needs_its_prices",
    KeyInMeta: "test_no_key_is_seen",
    KeyInALog: "test_no_key_is_seen",
    KeyInItsName: "test_no_key_is_seen",
    KeyInAnError: "test_no_key_is_seen",
    TakesAKeyForGranted: "test_it_asks_for_a_key_that_is_not_set",
    AsksForTheKeyLate: "test_it_asks_for_a_key_that_is_not_set",
    FailuresAreRejections: "test_an_error_on_the_way_is_not_swallowed",
    FailsWithATraceback: "test_an_error_on_the_way_is_not_swallowed",
    SendsNoPrompt: "test_it_is_the_prompted_model_that_answers",
    SendsNoTemperature: "test_each_request_is_sampled_at_its_temperature",
    SendsNoTemperatureOfZero: "test_each_request_is_sampled_at_its_temperature",
    SendsNoLimit: "test_an_answer_has_no_more_than_max_tokens",
    SendsNoSeed: "test_the_seed_decides",
    SeedsByTheCall: "test_the_seed_decides",
    CutAndComplete: "test_complete_says_whether_the_model_ended_its_turn",
    OneTurnForAll: "test_it_makes_as_many_answers_as_turns",
    UserHasTheLastWord: "test_it_makes_as_many_answers_as_turns",
}
