"""The conformance suite for data providers: what they ask a model, and what its answers are."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from promptbake.interfaces import DataProvider
from promptbake.testing.providers.generate_call import (
    BATCH,
    OTHER,
    TOKENS,
    Trial,
    TrialSuite,
    check_mendable,
    check_refused,
    kept,
    odd,
    recording,
)
from promptbake.types import Conversation

FEW = 2  # tokens, which cut every response but the shortest
LEAD = 24  # characters of a prompt that tell which it is
WORDS = 8  # more than FEW tokens can be
HELD_OUT = 1.0  # temperature of the held-out requests
BYTES = 3  # of the character that stands for half a character


class SampleSuite(TrialSuite):
    """The tests about sampling: all is seen of the base model, and of others what they answer."""

    def test_it_samples_as_the_flags_say(self, provider: DataProvider) -> None:
        assert self.samples or not self.uses_base_model, (
            "`samples` is False and `uses_base_model` True: one of the two is wrong"
        )
        trial = self._trial(provider).run()
        assert bool(trial.model.sampled) == self.uses_base_model, (
            f"`uses_base_model` is {self.uses_base_model}, and {len(trial.model.sampled)} "
            "responses were sampled from job.open_model(): set it to what is true"
        )
        assert self.uses_base_model or not trial.opened, (
            "job.open_model() was called, and nothing was sampled: it may load for minutes"
        )
        if self.samples:
            return
        other = self._trial(provider, prompt=OTHER, seed=1, max_tokens=FEW).run()
        assert trial.words == other.words, (
            "`samples` is False, and the answers depend on the prompt, the seed, job.max_tokens or "
            "chance: set it to True"
        )

    def test_it_is_the_prompted_model_that_answers(self, provider: DataProvider) -> None:
        self.capable_of("samples")
        trials = [self._trial(provider, **changes).run() for changes in ({}, {"prompt": OTHER})]
        if not self.uses_base_model:
            self.capable_of("seeded")
            assert trials[0].words != trials[1].words, (
                "another prompt gives the same answers: send job.prompt.text as the system "
                "message, and keep no prompt and no answer between calls"
            )
            return
        for trial in trials:
            for request in trial.job.requests:
                advice = "give it renderer.prompt(query.messages, job.prompt.text)"
                rows = trial.rows(request)
                assert rows, (
                    f"{request.id}: the model was never asked with the prompt "
                    f"{trial.job.prompt.text[:LEAD]!r}... and all turns of the query: {advice}, "
                    "and keep no prompt between calls, nor by its name"
                )
                text = trial.job.prompt.text
                exact = tuple(trial.model.renderer.prompt(request.query.messages, text))
                assert any(tuple(row.prompt) == exact for row in rows), (
                    f"{request.id}: the prompt is no system message, or other words are with it, "
                    f"in {trial.model.renderer.text(rows[0].prompt)!r}: {advice}"
                )

    def test_each_request_is_sampled_at_its_temperature(self, provider: DataProvider) -> None:
        self.capable_of("samples")
        trial = self._trial(provider).run()
        advice = "give each request's own, and look for `or`, which takes 0 for nothing"
        if self.uses_base_model:
            for request in trial.job.requests:
                found = {row.temperature for row in trial.rows(request, prompted=False)}
                assert request.temperature in found, (
                    f"{request.id}: sampled at {sorted(found)}, where the request says "
                    f"{request.temperature}: {advice}"
                )
            return
        self.capable_of("seeded")
        heats = sorted({*self.temperatures, HELD_OUT})
        plans = [tuple(replace(each, temperature=heat) for each in trial.job.requests)
                 for heat in heats]  # fmt: skip
        words = [self._trial(provider, plan=plan).run().words for plan in plans]
        for one, other in combinations(range(len(heats)), 2):
            assert words[one] != words[other], (
                f"the answers at {heats[one]} and at {heats[other]} are the same: {advice}"
            )

    def test_a_conversation_tells_its_temperature(self, provider: DataProvider) -> None:
        self.capable_of("samples")
        trial = self._trial(provider).run()
        for id_, each in trial.conversations.items():
            if id_ in trial.asked:
                told, true = each.meta.get("temperature"), trial.asked[id_].temperature
                assert (1.0 if told is None else told) == true, (
                    f"{id_}: meta['temperature'] is {told!r}, and it was {true}: a teacher may "
                    "weigh the response by it, and takes it for 1 where there is none"
                )

    def test_an_answer_has_no_more_than_max_tokens(self, provider: DataProvider) -> None:
        self.capable_of("samples")
        trial = self._trial(provider, max_tokens=FEW).run()
        for each in kept(trial.found):
            long = len(each.response.split()) > WORDS
            if self.uses_base_model:
                tokens = trial.model.renderer.response(each.response, complete=False)
                long = len(tokens) > BYTES * FEW
            assert not long, (
                f"{each.id}: {each.response!r} is the answer where job.max_tokens is {FEW}: give "
                "the model job.max_tokens as its limit"
            )

    def test_an_answer_may_have_max_tokens(self, provider: DataProvider) -> None:
        self.capable_of("uses_base_model")
        model = odd()
        limit = model.context_tokens // 2
        trial = self._trial(provider, model=model, max_tokens=limit).run()
        for request in trial.job.requests:
            found = {row.max_tokens for row in trial.rows(request, prompted=False)}
            assert limit in found, (
                f"{request.id}: the model was given the limits {sorted(found)}, where "
                f"job.max_tokens is {limit}: give it that, and look for `min`, which would cut "
                "long responses"
            )

    def test_an_answer_is_what_the_model_said(self, provider: DataProvider) -> None:
        self.capable_of("uses_base_model")
        for model in (recording(), odd()):
            trial = self._trial(provider, model=model, max_tokens=3 * TOKENS).run()
            for each in kept(trial.found):
                rows = trial.rows(trial.asked[each.id]) if each.id in trial.asked else []
                said = trial.answers(rows)
                assert not said or each.response in said, (
                    f"{each.id}: {each.response!r} is the answer, and the model said "
                    f"{' or '.join(map(repr, sorted(said)))}: keep renderer.text(completion.tokens)"
                    " as it is, or other tokens than the model's are trained on: look for strip, "
                    "lower and replace. Waive this where it is meant"
                )

    def test_complete_says_whether_the_model_ended_its_turn(self, provider: DataProvider) -> None:
        self.capable_of("samples")
        why = "it decides whether the end of the turn is trained on"
        if self.uses_base_model:
            for model in (recording(), recording(ends_after=FEW)):
                trial = self._trial(provider, model=model).run()
                for each, ended in turns_ended(trial):
                    assert each.complete in ended, (
                        f"{each.id}: `complete` is {each.complete}, and that of the completion is "
                        f"{not each.complete}: {why}"
                    )
            return
        self.capable_of("seeded")
        whole = self._trial(provider).run().words
        for each in kept(self._trial(provider, max_tokens=FEW).run().found):
            longer = whole[each.id][-1].content if each.id in whole else ""
            cut = longer != each.response and longer.startswith(each.response)
            assert not (cut and each.complete), (
                f"{each.id}: {longer!r} was cut to {each.response!r} by job.max_tokens, and "
                f"`complete` is True: {why}"
            )

    def test_the_seed_decides(self, provider: DataProvider) -> None:
        self.capable_of("samples")
        first, again, other = (self._trial(provider, seed=seed).run().words for seed in (0, 0, 1))
        same = all(first[id_] == again[id_] for id_ in first.keys() & again.keys())
        if not self.seeded:
            assert not same or first == other, (
                "`seeded` is False, and the answers follow job.seed: set it to True"
            )
            return
        assert same, (
            "the same job has other answers the second time: derive each seed from job.seed and "
            "the request's id. Where the service takes no seed, set `seeded = False`"
        )
        assert first != other, (
            "another job.seed gives the same answers: derive each seed from it. Where the service "
            "takes no seed, set `seeded = False`"
        )

    def test_each_answer_is_that_of_its_own_request(self, provider: DataProvider) -> None:
        self.capable_of("uses_base_model")
        trial = self._trial(provider, model=recording(backwards=True)).run()
        for id_, each in trial.conversations.items():
            if id_ in trial.asked:
                own = trial.rows(trial.asked[id_])
                others = [row for row in trial.model.sampled if row not in own]
                mixed_up = trial.answers(others) - trial.answers(own)
                assert each.response not in mixed_up, (
                    f"{id_}: has the answer to another request: sample gives each response with "
                    "its prompt's index, in the order in which they are ready"
                )

    def test_each_request_has_a_seed_of_its_own(self, provider: DataProvider) -> None:
        self.capable_of("uses_base_model")
        trial = self._trial(provider).run()
        seeds = {row.seed for row in trial.model.sampled}
        assert len(seeds) >= len(trial.job.requests), (
            f"{len(seeds)} seeds for {len(trial.job.requests)} requests: derive each from job.seed and "
            "the request's id, or the same words get the same answer"
        )

    def test_an_answer_does_not_depend_on_what_is_done(self, provider: DataProvider) -> None:
        self.capable_of("seeded")
        whole = self._trial(provider, model=recording(sample_batch=BATCH)).run()
        for stored in (whole.found[::2], whole.found[: BATCH + 1]):
            again = whole.after(stored, model=recording(sample_batch=BATCH)).run()
            for each in kept(again.found):
                assert each.messages == whole.words.get(each.id, each.messages), (
                    f"{each.id}: another answer where {len(stored)} of {len(whole.found)} are "
                    "done: a seed must not come from a request's place among those that are left, "
                    "nor from what was drawn before"
                )

    def test_it_makes_as_many_answers_as_turns(self, provider: DataProvider) -> None:
        self.capable_of("samples")
        trial = self._trial(provider, turns=2).attempt()
        if not self.several_turns:
            assert trial.error is not None, (
                "job.turns is 2, and `several_turns` is False, and generate raises nothing: refuse "
                "it by BakeError, or make two answers a conversation and set the flag"
            )
            check_refused(trial, "job.turns is 2, and `several_turns` is False")
            return
        assert trial.error is None, (
            f"job.turns is 2, and {trial.error!r} is raised: set `several_turns = False`"
        )
        for each in trial.conversations.values():
            query = trial.queries[each.query_id].messages
            roles = [message.role for message in each.messages[len(query) :]]
            assert roles == ["assistant", "user", "assistant"], (
                f"{each.id}: {', '.join(roles)} after the query, where job.turns is 2"
            )

    def test_it_refuses_at_once_where_there_is_no_base_model(self, provider: DataProvider) -> None:
        self.capable_of("uses_base_model")
        trial = self._trial(provider, cannot_open=True).attempt()
        check_refused(trial, "the base model cannot be opened")

    def test_an_error_on_the_way_is_not_swallowed(
        self, provider: DataProvider, broken: DataProvider | None
    ) -> None:
        came, options, why = 0, dict[str, Any](), "the service fails"
        if self.uses_base_model:
            came, why = BATCH + 1, f"the model fails after {BATCH + 1} responses"
            broken, options = provider, {"model": recording(sample_batch=BATCH, fails_after=came)}
        if broken is None:
            pytest.skip("there is no fixture `broken`")
        trial = self._trial(broken, **options).attempt()
        assert trial.error is not None, (
            f"{why}, and generate ends as if all were well: let the error through, or what is "
            "missing is never missed"
        )
        check_mendable(trial.error, why)
        assert len(trial.found) <= came, (
            f"{why}, and {len(trial.found)} items came: a failure is no Rejection, which would "
            "never be asked for again"
        )


def turns_ended(trial: Trial) -> list[tuple[Conversation, set[bool]]]:
    """Each conversation of a request, with whether the model ended its turn in what it sampled."""
    found = []
    for each in trial.conversations.values():
        rows = trial.rows(trial.asked[each.id]) if each.id in trial.asked else []
        if rows:
            found.append((each, {row.completion.complete for row in rows}))
    return found
