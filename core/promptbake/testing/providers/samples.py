"""The tests of DataProviderSuite about sampling: what a model is asked, and what it answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from promptbake.interfaces import DataProvider
from promptbake.testing.providers.generate_call import (
    BATCH,
    OTHER,
    TOKENS,
    GenerateCall,
    GenerateTests,
    check_bake_error,
    check_refused,
    kept,
    recorded,
)
from promptbake.testing.sample_data import PROMPT
from promptbake.testing.suite import only_if
from promptbake.types import Prompt

FEW = 2  # tokens, which cut every response but the shortest
WORDS = 8  # more than FEW tokens can be
HELD_OUT = 1.0  # temperature of the held-out requests
BYTES = 3  # of the character that stands for half a character
TEMPERATURE = "give each request's own, and look for `or`, which takes 0 for nothing"
SEEDS = (
    "derive each seed from job.seed and the request's id. Where the service takes none, set "
    "`seeded = False`"
)
COMPLETE = "it decides whether the end of the turn is trained on"


class SampleTests(GenerateTests):
    """Of sampling. The base model is recorded; of a service only the answers are seen."""

    def test_it_samples_as_the_flags_say(
        self, provider: DataProvider, generated: GenerateCall
    ) -> None:
        assert self.samples or not self.uses_base_model, (
            "`samples` is False and `uses_base_model` True: one of the two is wrong"
        )
        sampled = len(generated.model.sampled)
        assert bool(sampled) == self.uses_base_model, (
            f"`uses_base_model` is {self.uses_base_model}, and {sampled} responses were sampled "
            "from job.open_model(): set it to what is true"
        )
        assert self.uses_base_model or not generated.opened, (
            "job.open_model() was called, and nothing was sampled: it may load for minutes"
        )
        if not self.samples:
            other = self._call(provider, prompt=OTHER, seed=1, max_tokens=FEW).run()
            assert generated.messages == other.messages, (
                "`samples` is False, and the answers depend on the prompt, the seed, "
                "job.max_tokens or chance: set it to True"
            )

    @only_if("uses_base_model")
    def test_the_base_model_reads_the_prompt_and_the_query(self, provider: DataProvider) -> None:
        for prompt in (PROMPT, OTHER, Prompt("", "")):
            call = self._call(provider, prompt=prompt).run()
            sampled = {tuple(row.prompt) for row in call.model.sampled}
            for request in call.job.requests:
                exact = call.model.renderer.prompt(request.query.messages, prompt.system)
                close = [call.model.renderer.text(row.prompt) for row in call.rows(request)]
                assert tuple(exact) in sampled, (
                    f"{request.id}: with the prompt {prompt.text!r}, it was asked {close[:1]}: "
                    "give it renderer.prompt(query.messages, job.prompt.system), and keep no "
                    "prompt between calls"
                )

    @only_if("samples")
    @only_if("seeded")
    def test_the_answers_depend_on_the_prompt(
        self, provider: DataProvider, generated: GenerateCall
    ) -> None:
        other = self._call(provider, prompt=OTHER).run()
        assert generated.messages != other.messages, (
            "another prompt gives the same answers: send job.prompt.system as the system message"
        )

    @only_if("uses_base_model")
    def test_the_base_model_samples_at_each_requests_temperature(
        self, generated: GenerateCall
    ) -> None:
        for request in generated.job.requests:
            used = {row.temperature for row in generated.rows(request)}
            assert request.temperature in used, (
                f"{request.id}: sampled at {sorted(used)}, where the request says "
                f"{request.temperature}: {TEMPERATURE}"
            )

    @only_if("samples")
    @only_if("seeded")
    @only_if("uses_base_model", False)
    def test_each_request_is_sampled_at_its_temperature(
        self, provider: DataProvider, generated: GenerateCall
    ) -> None:
        answers = {}
        for temperature in sorted({*self.temperatures, HELD_OUT}):
            requests = tuple(
                replace(each, temperature=temperature) for each in generated.job.requests
            )
            answers[temperature] = self._call(provider, requests=requests).run().messages
        for one, other in combinations(answers, 2):
            assert answers[one] != answers[other], (
                f"the answers at {one} and at {other} are the same: {TEMPERATURE}"
            )

    @only_if("samples")
    def test_meta_has_the_temperature(self, generated: GenerateCall) -> None:
        for each, request, _ in generated.answered:
            temperature = each.meta.get("temperature", 1.0)
            assert temperature == request.temperature, (
                f"{each.id}: meta['temperature'] is {temperature!r}, and it was "
                f"{request.temperature}: a teacher may weight the response by it"
            )

    @only_if("samples")
    def test_an_answer_has_no_more_than_max_tokens(self, provider: DataProvider) -> None:
        call = self._call(provider, max_tokens=FEW).run()
        for each in kept(call.items):
            long = len(each.response.split()) > WORDS
            if self.uses_base_model:
                tokens = call.model.renderer.response(each.response, complete=False)
                long = len(tokens) > BYTES * FEW
            assert not long, (
                f"{each.id}: {each.response!r} is the answer where job.max_tokens is {FEW}"
            )

    @only_if("uses_base_model")
    def test_an_answer_may_have_max_tokens(self, provider: DataProvider) -> None:
        model = recorded(framed=True)
        limit = model.context_tokens // 2
        call = self._call(provider, model=model, max_tokens=limit).run()
        for request in call.job.requests:
            limits = {row.max_tokens for row in call.rows(request)}
            assert limit in limits, (
                f"{request.id}: the model was given the limits {sorted(limits)}, where "
                f"job.max_tokens is {limit}: look for `min`, which would cut long responses"
            )

    @only_if("uses_base_model")
    def test_an_answer_is_what_the_model_said(self, provider: DataProvider) -> None:
        for framed in (False, True):
            model = recorded(framed=framed)
            call = self._call(provider, model=model, max_tokens=3 * TOKENS).run()
            for each, _, rows in call.answered:
                said = call.texts(rows)
                assert not said or each.response in said, (
                    f"{each.id}: {each.response!r} is the answer, and the model said "
                    f"{' or '.join(map(repr, sorted(said)))}: look for strip, lower and replace, "
                    "which train on other tokens than the model's. Waive this where it is meant"
                )

    @only_if("uses_base_model")
    def test_complete_is_that_of_the_completion(self, provider: DataProvider) -> None:
        for model in (recorded(), recorded(ends_after=FEW)):
            for each, _, rows in self._call(provider, model=model).run().answered:
                ended = {row.completion.complete for row in rows}
                assert not ended or each.complete in ended, (
                    f"{each.id}: `complete` is {each.complete}, and the completion's is not: "
                    f"{COMPLETE}"
                )

    @only_if("samples")
    @only_if("seeded")
    @only_if("uses_base_model", False)
    def test_an_answer_that_was_cut_is_not_complete(
        self, provider: DataProvider, generated: GenerateCall
    ) -> None:
        for each in kept(self._call(provider, max_tokens=FEW).run().items):
            whole = generated.messages.get(each.id, each.messages)[-1].content
            cut = whole != each.response and whole.startswith(each.response)
            assert not (cut and each.complete), (
                f"{each.id}: {whole!r} was cut to {each.response!r} by job.max_tokens, and "
                f"`complete` is True: {COMPLETE}"
            )

    @only_if("samples")
    def test_the_answers_follow_the_seed_as_the_flag_says(self, provider: DataProvider) -> None:
        first, again, other = (self._call(provider, seed=seed).run().messages for seed in (0, 0, 1))
        same = all(first[id_] == again[id_] for id_ in first.keys() & again.keys())
        if not self.seeded:
            assert not same or first == other, (
                "`seeded` is False, and the answers follow job.seed: set it to True"
            )
            return
        assert same, f"the same job has other answers the second time: {SEEDS}"
        assert first != other, f"another job.seed gives the same answers: {SEEDS}"

    @only_if("uses_base_model")
    def test_each_answer_is_that_of_its_own_request(self, provider: DataProvider) -> None:
        call = self._call(provider, model=recorded(backwards=True)).run()
        for each, _, own in call.answered:
            others = [row for row in call.model.sampled if row not in own]
            assert each.response not in call.texts(others) - call.texts(own), (
                f"{each.id}: has the answer to another request: `sample` yields responses as they "
                "are ready, each with its prompt's index"
            )

    @only_if("uses_base_model")
    def test_each_request_has_a_seed_of_its_own(self, generated: GenerateCall) -> None:
        seeds = {row.seed for row in generated.model.sampled}
        assert len(seeds) >= len(generated.job.requests), (
            f"{len(seeds)} seeds for {len(generated.job.requests)} requests: {SEEDS}"
        )

    @only_if("seeded")
    def test_an_answer_does_not_depend_on_what_is_completed(self, provider: DataProvider) -> None:
        whole = self._call(provider, model=recorded(sample_batch=BATCH)).run()
        for stored in (whole.items[::2], whole.items[: BATCH + 1]):
            again = whole.resumed(stored, model=recorded(sample_batch=BATCH)).run()
            for each in kept(again.items):
                assert each.messages == whole.messages.get(each.id, each.messages), (
                    f"{each.id}: another answer where {len(stored)} of {len(whole.items)} are "
                    "completed: look for seeds by a request's place among those that are left"
                )

    @only_if("samples")
    @only_if("several_turns", False)
    def test_it_refuses_several_turns(self, provider: DataProvider) -> None:
        call = self._call(provider, turns=2).attempt()
        check_refused(call, "job.turns is 2, and `several_turns` is False")

    @only_if("samples")
    @only_if("several_turns")
    def test_it_gives_as_many_answers_as_turns(self, provider: DataProvider) -> None:
        call = self._call(provider, turns=2).attempt()
        assert call.error is None, f"{call.error!r} is raised: set `several_turns = False`"
        for each in call.conversations.values():
            query = call.queries[each.query_id].messages
            roles = [message.role for message in each.messages[len(query) :]]
            wanted = ["assistant", "user", "assistant"]
            assert roles == (wanted if each.complete else wanted[: max(len(roles), 1)]), (
                f"{each.id}: {', '.join(roles)} after the query, where job.turns is 2"
            )

    @only_if("uses_base_model")
    def test_it_refuses_at_once_where_there_is_no_base_model(self, provider: DataProvider) -> None:
        call = self._call(provider, cannot_open=True).attempt()
        check_refused(call, "the base model cannot be opened")

    @only_if("uses_base_model")
    def test_an_error_of_the_base_model_is_not_swallowed(self, provider: DataProvider) -> None:
        model = recorded(sample_batch=BATCH, fails_after=BATCH + 1)
        call = self._call(provider, model=model).attempt()
        _check_failed(call, f"the model fails after {BATCH + 1} responses", BATCH + 1)

    @only_if("broken")
    def test_an_error_of_the_service_is_not_swallowed(self, broken: DataProvider) -> None:
        _check_failed(self._call(broken).attempt(), "the service fails", 0)


def _check_failed(call: GenerateCall, why: str, answers: int) -> None:
    """Refuse a failure that is not raised, or that is yielded as a rejection."""
    assert call.error is not None, (
        f"{why}, and generate ends as if all were well: let the error through"
    )
    check_bake_error(call.error, why)
    assert len(call.items) <= answers, (
        f"{why}, and {len(call.items)} items came: a rejection would never be asked for again"
    )
