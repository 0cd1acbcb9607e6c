"""Mistakes of data providers that ask the base model."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toy_providers import Answers, Good, left

from promptbake.costs import CostEstimate
from promptbake.errors import BakeError
from promptbake.interfaces import GenerationJob, Model
from promptbake.seeds import derive
from promptbake.types import Conversation, GenerationRequest, Message, Prompt, Rejection, TokenIds


class SavesTheSystemMessage(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return (Message("system", job.prompt.text), *super().turns(job, request, text))


class SavesThePromptInTheUsersTurn(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        (*before, last) = request.query.messages
        asked = Message("user", f"{job.prompt.text}\n\n{last.content}")
        return (*before, asked, Message("assistant", text))


class PutsAPartOfThePromptInMeta(Good):
    def meta(self, job: GenerationJob, request: GenerationRequest) -> dict[str, Any]:
        return {**super().meta(job, request), "system": job.prompt.text[:30]}


class LeavesOutTheLast(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        found = list(super().made(job, model))
        yield from found[:-1]


class YieldsOneTwice(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        for number, each in enumerate(super().made(job, model)):
            yield each
            if number == 2:
                yield each


class TakesTheQuerysId(Good):
    def answered(self, *given: Any) -> Conversation | Rejection:
        found = super().answered(*given)
        return replace(found, id=found.query_id)


class FindsQueriesByTheirWords(Good):
    def answered(self, job: GenerationJob, *given: Any) -> Conversation | Rejection:
        by_words = {request.query.messages: request.query.id for request in job.requests}
        found = super().answered(job, *given)
        assert isinstance(found, Conversation)
        return replace(found, query_id=by_words[found.messages[:-1]])


class StripsTheUsersWords(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        found = super().turns(job, request, text)
        return tuple(Message(each.role, each.content.strip()) for each in found)


class SavesTheLastTurnAlone(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return super().turns(job, request, text)[-2:]


class ReadsTheLastTurnAlone(Good):
    def prompt(self, job: GenerationJob, model: Model, request: GenerationRequest) -> TokenIds:
        return model.renderer.prompt(request.query.messages[-1:], job.prompt.text)


class EndsWithTheUser(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return (*super().turns(job, request, text), Message("user", "Thank you."))


class IgnoresThePrompt(Good):
    def prompt(self, job: GenerationJob, model: Model, request: GenerationRequest) -> TokenIds:
        return model.renderer.prompt(request.query.messages)


class KeepsTheFirstPrompt(Good):
    first: Prompt | None = None

    def prompt(self, job: GenerationJob, model: Model, request: GenerationRequest) -> TokenIds:
        self.first = self.first or job.prompt
        return super().prompt(replace(job, prompt=self.first), model, request)


class KeepsPromptsByTheirNames(Good):
    def __init__(self) -> None:
        self.known: dict[str, Prompt] = {}

    def prompt(self, job: GenerationJob, model: Model, request: GenerationRequest) -> TokenIds:
        prompt = self.known.setdefault(job.prompt.name, job.prompt)
        return super().prompt(replace(job, prompt=prompt), model, request)


class PastesThePromptIntoTheUsersTurn(Good):
    def prompt(self, job: GenerationJob, model: Model, request: GenerationRequest) -> TokenIds:
        (*before, last) = request.query.messages
        asked = Message("user", f"{job.prompt.text}\n\n{last.content}")
        return model.renderer.prompt((*before, asked))


class Strips(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return super().turns(job, request, text.strip())


class Lowers(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return super().turns(job, request, text.lower())


class JoinsLines(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return super().turns(job, request, text.replace("\n", " "))


class OneTemperature(Good):
    def temperature(self, request: GenerationRequest) -> float:
        return 1.0


class TakesZeroForNothing(Good):
    def temperature(self, request: GenerationRequest) -> float:
        return request.temperature or 1.0


class TellsNoTemperature(Good):
    def meta(self, job: GenerationJob, request: GenerationRequest) -> dict[str, Any]:
        return {"category": request.query.category}


class ALimitOfItsOwn(Good):
    def limit(self, job: GenerationJob) -> int:
        return 12


class ShortResponsesAlone(Good):
    def limit(self, job: GenerationJob) -> int:
        return min(job.max_tokens, 8)


class AlwaysComplete(Good):
    def answered(self, *given: Any) -> Conversation | Rejection:
        found = super().answered(*given)
        assert isinstance(found, Conversation)
        return replace(found, complete=True)


class NeverComplete(Good):
    def answered(self, *given: Any) -> Conversation | Rejection:
        found = super().answered(*given)
        assert isinstance(found, Conversation)
        return replace(found, complete=False)


class IgnoresTheIndex(Good):
    def sampled(
        self, job: GenerationJob, model: Model, batch: Sequence[GenerationRequest]
    ) -> Answers:
        found = super().sampled(job, model, batch)
        for request, each in zip(batch, found, strict=False):
            assert isinstance(each, Conversation)
            turns = (*request.query.messages, each.messages[-1])
            yield replace(each, id=request.id, query_id=request.query.id, messages=turns)


class Unseeded(Good):
    def seed(self, job: GenerationJob, request: GenerationRequest) -> int:
        return random.getrandbits(62)


class OneSeedForAll(Good):
    def seed(self, job: GenerationJob, request: GenerationRequest) -> int:
        return job.seed


class IgnoresTheSeed(Good):
    def seed(self, job: GenerationJob, request: GenerationRequest) -> int:
        return derive(0, request.id)


class SeedsByThePlace(Good):
    def seed(self, job: GenerationJob, request: GenerationRequest) -> int:
        return derive(job.seed, left(job).index(request)) if request in left(job) else 0


class YieldsWhatIsDone(Good):
    def generate(self, job: GenerationJob) -> Answers:
        return super().generate(replace(job, completed_ids=frozenset()))


class SamplesWhatIsDone(Good):
    def wanted(self, job: GenerationJob, batch: Sequence[GenerationRequest]) -> bool:
        return True


class CollectsAll(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        return iter(list(super().made(job, model)))


class GivesAList(Good):
    def made(self, job: GenerationJob, model: Model) -> Any:
        return list(super().made(job, model))


class OpensTheModelLate(Good):
    def generate(self, job: GenerationJob) -> Answers:
        yield from super().generate(job)


class SwallowsErrors(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        try:
            yield from super().made(job, model)
        except Exception:
            logging.getLogger(__name__).warning("generation has failed")


class WrapsErrors(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        try:
            yield from super().made(job, model)
        except BakeError as error:
            raise RuntimeError("generation has failed") from error


class RejectsWhatFailed(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        came = set[str]()
        try:
            for each in super().made(job, model):
                came.add(each.id)
                yield each
        except BakeError as error:
            for request in left(job):
                if request.id not in came:
                    yield Rejection(request.id, request.query.id, str(error))
            raise


class IgnoresTurns(Good):
    def generate(self, job: GenerationJob) -> Answers:
        return super().generate(replace(job, turns=1))


class NestsItsMeta(Good):
    def meta(self, job: GenerationJob, request: GenerationRequest) -> dict[str, Any]:
        return {**super().meta(job, request), "usage": {"tokens": 3}}


class NotANumberInMeta(Good):
    def meta(self, job: GenerationJob, request: GenerationRequest) -> dict[str, Any]:
        return {**super().meta(job, request), "logprob": float("nan")}


class TurnsAsDicts(Good):
    def turns(self, job: GenerationJob, request: GenerationRequest, text: str) -> Any:
        return tuple(vars(each) for each in super().turns(job, request, text))


class TurnsAsAList(Good):
    def turns(self, job: GenerationJob, request: GenerationRequest, text: str) -> Any:
        return list(super().turns(job, request, text))


class HalfACharacter(Good):
    def turns(
        self, job: GenerationJob, request: GenerationRequest, text: str
    ) -> tuple[Message, ...]:
        return super().turns(job, request, text + "\U0001f3f4".encode("utf-16")[2:4].decode(
            "utf-16", "surrogatepass"))  # fmt: skip


class RejectsWithoutAReason(Good):
    def answered(
        self, job: GenerationJob, model: Model, request: GenerationRequest, *given: Any
    ) -> Any:
        found = super().answered(job, model, request, *given)
        if request.query.id != "q0":
            return found
        return Rejection(found.id, found.query_id, "")


class KeepsWhatItSaw(Good):
    def __init__(self) -> None:
        self.seen = set[tuple[Message, ...]]()

    def answered(self, *given: Any) -> Conversation | Rejection:
        found = super().answered(*given)
        assert isinstance(found, Conversation)
        if found.messages in self.seen:
            return Rejection(found.id, found.query_id, "it is identical to an earlier one")
        self.seen.add(found.messages)
        return found


class Prints(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        for each in super().made(job, model):
            print(each.id)  # noqa: T201
            yield each


class TellsPercent(Good):
    def made(self, job: GenerationJob, model: Model) -> Answers:
        for number, each in enumerate(super().made(job, model)):
            job.progress(100 * number / len(job.requests))
            yield each


class QuoteSamples(Good):
    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        list(self.made(replace(job, requests=job.requests[:1]), job.open_model()))
        return super().estimate_cost(job)


class QuotesWhatIsDone(Good):
    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        return super().estimate_cost(replace(job, completed_ids=frozenset()))


class QuotesShortResponses(Good):
    def estimate_cost(self, job: GenerationJob) -> CostEstimate:
        return super().estimate_cost(replace(job, max_tokens=job.max_tokens // 2))


BASE = {
    SavesTheSystemMessage: "test_the_prompt_is_in_nothing_that_it_yields",
    SavesThePromptInTheUsersTurn: "test_the_prompt_is_in_nothing_that_it_yields",
    PutsAPartOfThePromptInMeta: "test_the_prompt_is_in_nothing_that_it_yields",
    LeavesOutTheLast: "test_it_answers_every_request_once",
    YieldsOneTwice: "test_it_answers_every_request_once",
    TakesTheQuerysId: "test_it_answers_every_request_once",
    FindsQueriesByTheirWords: "test_an_answer_names_its_query",
    StripsTheUsersWords: "test_a_conversation_is_its_query_and_an_answer",
    SavesTheLastTurnAlone: "test_a_conversation_is_its_query_and_an_answer",
    EndsWithTheUser: "test_a_conversation_is_its_query_and_an_answer",
    ReadsTheLastTurnAlone: "test_it_is_the_prompted_model_that_answers",
    IgnoresThePrompt: "test_it_is_the_prompted_model_that_answers",
    KeepsTheFirstPrompt: "test_it_is_the_prompted_model_that_answers",
    KeepsPromptsByTheirNames: "test_it_is_the_prompted_model_that_answers",
    PastesThePromptIntoTheUsersTurn: "test_it_is_the_prompted_model_that_answers",
    Strips: "test_an_answer_is_what_the_model_said",
    Lowers: "test_an_answer_is_what_the_model_said",
    JoinsLines: "test_an_answer_is_what_the_model_said",
    OneTemperature: "test_each_request_is_sampled_at_its_temperature",
    TakesZeroForNothing: "test_each_request_is_sampled_at_its_temperature",
    TellsNoTemperature: "test_a_conversation_tells_its_temperature",
    ALimitOfItsOwn: "test_an_answer_has_no_more_than_max_tokens",
    ShortResponsesAlone: "test_an_answer_may_have_max_tokens",
    AlwaysComplete: "test_complete_says_whether_the_model_ended_its_turn",
    NeverComplete: "test_complete_says_whether_the_model_ended_its_turn",
    IgnoresTheIndex: "test_each_answer_is_that_of_its_own_request",
    Unseeded: "test_the_seed_decides",
    IgnoresTheSeed: "test_the_seed_decides",
    OneSeedForAll: "test_each_request_has_a_seed_of_its_own",
    SeedsByThePlace: "test_an_answer_does_not_depend_on_what_is_done",
    YieldsWhatIsDone: "test_what_is_done_is_not_yielded_again",
    SamplesWhatIsDone: "test_where_all_is_done_nothing_is_asked_for",
    CollectsAll: "test_it_yields_each_answer_as_it_is_ready",
    GivesAList: "test_it_yields_each_answer_as_it_is_ready",
    OpensTheModelLate: "test_it_refuses_at_once_where_there_is_no_base_model",
    SwallowsErrors: "test_an_error_on_the_way_is_not_swallowed",
    WrapsErrors: "test_an_error_on_the_way_is_not_swallowed",
    RejectsWhatFailed: "test_an_error_on_the_way_is_not_swallowed",
    IgnoresTurns: "test_it_makes_as_many_answers_as_turns",
    NestsItsMeta: "test_its_meta_is_flat",
    NotANumberInMeta: "test_its_meta_is_flat",
    TurnsAsDicts: "test_what_it_yields_is_of_the_types_of_the_interface",
    TurnsAsAList: "test_what_it_yields_is_of_the_types_of_the_interface",
    HalfACharacter: "test_what_it_yields_can_be_stored_and_read",
    RejectsWithoutAReason: "test_what_it_yields_is_of_the_types_of_the_interface",
    KeepsWhatItSaw: "test_it_can_be_asked_again",
    Prints: "test_it_prints_nothing",
    TellsPercent: "test_it_tells_its_progress_in_responses",
    QuoteSamples: "test_a_quote_is_in_numbers_and_sends_nothing",
    QuotesWhatIsDone: "test_a_quote_is_for_what_is_not_done",
    QuotesShortResponses: "test_a_quote_covers_what_it_comes_to",
}
