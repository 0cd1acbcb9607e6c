"""The conformance suite for data providers."""

from __future__ import annotations

import json
import math
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptbake.dataset import conversations
from promptbake.errors import BakeError
from promptbake.files import JsonLines
from promptbake.interfaces import DataProvider
from promptbake.testing.keys import check_unseen, everything_logged
from promptbake.testing.providers.costs import QuoteSuite
from promptbake.testing.providers.generate_call import (
    BATCH,
    Found,
    check_refused,
    check_types,
    one_line,
    recording,
)
from promptbake.testing.providers.samples import SampleSuite
from promptbake.types import Message, Query, Rejection

LEAK = 24  # characters of the prompt in a row, which stand nowhere by chance


class DataProviderSuite(SampleSuite, QuoteSuite):
    """Fixture `provider`: the data provider.

    `broken`, a fixture that you may override: the same, where its service gives errors alone. Let
    a double of the service give answers that depend on all that it is sent: the messages, the
    temperature, the limit, and the seed if it takes one.

    With `uses_base_model`, an answer is what the model said to the letter; a provider that tidies
    on purpose waives `test_an_answer_is_what_the_model_said`.

    - `samples = False`: it hands out what is stored, and asks no model.
    - `uses_base_model = True`: the answers come from `job.open_model()`.
    - `brings_queries = True`: it has queries of its own.
    - `seeded = False`: the same job may bring other answers the next time.
    - `several_turns = True`: it makes conversations of more than one answer.
    - `paid = True`: it pays for answers, and holds the money against `job.budget`.
    - `temperatures`: two that it can sample at, beside 1.
    """

    def test_it_brings_queries_as_the_flag_says(self, provider: DataProvider) -> None:
        found = tuple(provider.queries())
        assert bool(found) == self.brings_queries, (
            f"`brings_queries` is {self.brings_queries}, and queries() gives {len(found)}: where "
            "there is one, no other queries are asked"
        )
        for each in found:
            assert isinstance(each, Query), f"queries() gives {each!r}: expected promptbake's Query"

    def test_it_brings_enough_queries_for_a_split(self, provider: DataProvider) -> None:
        self.capable_of("brings_queries")
        words = {query.messages for query in provider.queries()}
        assert len(words) > 1, (
            f"queries() gives {len(words)} different one: one is held out, and at least one must "
            "be left to train on"
        )

    def test_its_queries_have_ids_of_their_own(self, provider: DataProvider) -> None:
        self.capable_of("brings_queries")
        for id_, times in Counter(query.id for query in provider.queries()).items():
            assert isinstance(id_, str), f"a query has the id {id_!r}: expected text"
            assert id_, "a query has an empty id"
            assert times == 1, f"{times} queries have the id {id_!r}: number them"

    def test_its_queries_are_turns_that_end_with_the_users(self, provider: DataProvider) -> None:
        self.capable_of("brings_queries")
        for query in provider.queries():
            check_turns(query.messages, f"query {query.id}")
            assert query.messages[-1].role == "user", (
                f"query {query.id}: ends with the assistant's turn: leave the answer to generate"
            )

    def test_it_brings_the_same_queries_again(self, provider: DataProvider) -> None:
        self.capable_of("brings_queries")
        first, again = (tuple(provider.queries()) for _ in range(2))
        assert first == again, (
            "queries() gives others the second time, so a run could not go on: look for random "
            "ids, a set's order, and an iterator that is used up"
        )

    def test_it_answers_every_request_once(self, provider: DataProvider) -> None:
        trial = self._trial(provider).run()
        times = Counter(each.id for each in trial.found)
        twice = [id_ for id_, n in times.items() if n > 1]
        assert not twice, (
            f"{twice[0]!r} came {times[twice[0]]} times: a conversation's id is its own, that of "
            "its request where it has one, which is not its query's"
        )
        if self.brings_queries:  # answers of its own may have ids of their own
            wanted = {request.query.id for request in trial.job.requests}
            missing = wanted - {each.query_id for each in trial.found}
        else:
            strangers = times.keys() - trial.asked.keys()
            assert not strangers, f"{min(strangers)!r} came, and is no request's id"
            missing = trial.asked.keys() - times.keys()
        assert not missing, (
            f"nothing came for {len(missing)} of {len(trial.job.requests)}, such as {min(missing)!r}: "
            "yield a Conversation, or a Rejection with its reason, for each"
        )

    def test_what_it_yields_is_of_the_types_of_the_interface(self, provider: DataProvider) -> None:
        trial = self._trial(provider).attempt()
        assert trial.found, "generate yields nothing"
        for each in trial.found:
            check_types(each)

    def test_an_answer_names_its_query(self, provider: DataProvider) -> None:
        trial = self._trial(provider).run()
        for each in trial.found:
            assert each.query_id in trial.queries, (
                f"{each.id}: the query_id {each.query_id!r} is no query's id"
            )
            if request := trial.asked.get(each.id):
                assert each.query_id == request.query.id, (
                    f"{each.id}: the query_id is {each.query_id!r}, and its request's query is "
                    f"{request.query.id!r}: two queries may have the same words"
                )

    def test_a_conversation_is_its_query_and_an_answer(self, provider: DataProvider) -> None:
        trial = self._trial(provider).run()
        for each in trial.conversations.values():
            if each.query_id not in trial.queries:
                continue
            query = trial.queries[each.query_id].messages
            asked, rest = each.messages[: len(query)], each.messages[len(query) :]
            assert asked == query, (
                f"{each.id}: begins with {asked}, and its query is {query}: keep its turns as they "
                "stand, white space included, and put nothing before them"
            )
            roles = ", ".join(message.role for message in rest) or "none"
            if each.id in trial.asked:
                assert roles == "assistant", (
                    f"{each.id}: the turns after its query are {roles}: expected one answer"
                )
            check_turns(each.messages, each.id)
            assert each.messages[-1].role == "assistant", f"{each.id}: ends with the user's turn"

    def test_the_prompt_is_in_nothing_that_it_yields(self, provider: DataProvider) -> None:
        trial = self._trial(provider).run()
        prompt = one_line(trial.job.prompt.text)
        parts = [prompt[start : start + LEAK] for start in range(len(prompt) - LEAK + 1)]
        for each in trial.found:
            for place, text in written(each):
                # The model may quote a part of it, and only the model.
                needles = [prompt] if place == "assistant's turn" else parts
                leaks = [part for part in needles if part in one_line(text)]
                assert not leaks, (
                    f"{each.id}: {leaks[0]!r} of the prompt is in its {place}: give the prompt to "
                    "the model alone. Where a double repeats what it is sent, let it say less"
                )

    def test_what_is_done_is_not_yielded_again(self, provider: DataProvider) -> None:
        whole = self._trial(provider).run()
        stored, left = whole.found[::2], whole.found[1::2]
        again = {each.id for each in whole.after(stored).run().found}
        repeated = sorted(again & {each.id for each in stored})
        assert not repeated, f"{repeated[0]!r} was in job.completed_ids, and came again"
        missing = sorted({each.id for each in left} - again)
        assert not missing, f"{missing[0]!r} was not in job.completed_ids, and did not come"

    def test_where_all_is_done_nothing_is_asked_for(self, provider: DataProvider) -> None:
        whole = self._trial(provider).run()
        again = whole.after(whole.found).run()
        assert not again.found, f"{again.found[0].id!r} came where all was done"
        assert not again.model.sampled, "the base model was sampled from where all was done"
        assert not again.budget.reservations, "money was held where all was done"

    def test_it_can_be_asked_again(self, provider: DataProvider) -> None:
        first, again = (self._trial(provider).run() for _ in range(2))
        assert len(again.found) == len(first.found), (
            f"{len(first.found)} answers came the first time, and {len(again.found)} of the same "
            "object the second: look for an iterator that is used up"
        )
        assert again.conversations

    def test_it_yields_each_answer_as_it_is_ready(self, provider: DataProvider) -> None:
        trial = self._trial(provider, model=recording(sample_batch=BATCH))
        answers = provider.generate(trial.job)
        assert isinstance(answers, Iterator), (
            f"generate gives a {type(answers).__name__}: expected an iterator, since what is not "
            "yielded yet is lost in a kill"
        )
        assert list(answers), "generate yields nothing"
        if not self.uses_base_model:
            return
        came = len(trial.model.sampled) - 1
        model = recording(sample_batch=BATCH, fails_after=came)
        assert self._trial(provider, model=model).attempt().found, (
            f"the model failed after {came} responses of {came + 1}, and none of them had been "
            "yielded, so that a failure or a kill loses them all: yield inside the loop"
        )

    def test_its_meta_is_flat(self, provider: DataProvider) -> None:
        for each in self._trial(provider).run().conversations.values():
            for name, value in each.meta.items():
                where = f"{each.id}: meta[{name!r}] is {value!r}"
                assert isinstance(name, str), f"{where}: expected text for its name"
                assert value is None or isinstance(value, str | int | float), (
                    f"{where}, a {type(value).__name__}: expected text, a plain number or None"
                )
                assert not isinstance(value, float) or math.isfinite(value), (
                    f"{where}, which JSON does not have: write None"
                )

    def test_what_it_yields_can_be_stored_and_read(
        self, provider: DataProvider, tmp_path: Path
    ) -> None:
        found = self._trial(provider).run().conversations.values()
        stored = [each for each in found if each.response.strip()]  # others are left out, counted
        path = tmp_path / "data.jsonl"
        with JsonLines(path) as file:
            for each in stored:
                try:
                    file.append(conversations.to_line(each))
                except (TypeError, ValueError) as error:
                    pytest.fail(f"{each.id}: cannot be written to data.jsonl: {error}; {each}")
        for before, after in zip(stored, conversations.read(path), strict=True):
            assert before == after, f"{before} was written to data.jsonl, and {after} read"

    def test_it_tells_its_progress_in_responses(self, provider: DataProvider) -> None:
        trial = self._trial(provider).run()
        wrong = [told for told in trial.progress if not told >= 0]
        assert not wrong, f"job.progress was told {wrong[0]!r}: expected 0 or above"
        total, most = sum(trial.progress), len(trial.job.requests)
        assert total <= most + 0.01, (
            f"job.progress was told of {total:.1f} responses, and {most} were asked for: tell what "
            "was done since the last call, in responses and parts of one"
        )
        for note in trial.notes:
            assert len(note.splitlines()) <= 1, f"job.note was told {note!r}: expected one line"

    def test_it_prints_nothing(
        self, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
    ) -> None:
        provider: DataProvider = request.getfixturevalue("provider")
        trial = self._trial(provider).run()
        provider.estimate_cost(trial.job)
        printed = capfd.readouterr().out
        assert not printed, (
            f"{printed!r} is on stdout, which `promptbake plan --json` writes to: use job.note"
        )

    def test_no_key_is_seen(
        self,
        request: pytest.FixtureRequest,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.capable_of("keys")
        with everything_logged(caplog):
            provider: DataProvider = request.getfixturevalue("provider")
            broken: DataProvider | None = request.getfixturevalue("broken")
            trials = [
                self._trial(each).attempt() for each in (provider, broken) if each is not None
            ]
            quote = provider.estimate_cost(trials[0].job)
        out, err = capfd.readouterr()
        errors = [trial.error for trial in trials if trial.error is not None]
        places = {
            "what was yielded": repr([trial.found for trial in trials]),
            "an error": "".join("".join(traceback.format_exception(each)) for each in errors),
            "a note": repr([trial.notes for trial in trials]),
            "the quote": repr(quote),
            "the provider's repr": repr(provider),
            "stdout": out,
            "stderr": err,
            "a log": caplog.text,
        }
        check_unseen(self.keys, places)

    def test_it_asks_for_a_key_that_is_not_set(
        self, provider: DataProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.capable_of("keys")
        for name in self.keys:
            with monkeypatch.context() as patch:
                patch.delenv(name, raising=False)
                trial = self._trial(provider).attempt()
            if trial.error is not None:  # else it was read before, or is not needed
                check_refused(trial, f"{name} is not set")
                assert name in str(trial.error), f"{trial.error}: say that it is {name}"


def check_turns(messages: tuple[Message, ...], where: str) -> None:
    """Refuse turns that the core does not read back; an empty answer is another's to judge."""
    if not messages[-1].content.strip():
        messages = (*messages[:-1], Message(messages[-1].role, "?"))
    try:
        line = {"messages": conversations.messages_to_json(messages)}
        conversations.check_messages(line, where)
    except BakeError as error:
        pytest.fail(str(error))


def written(found: Found) -> Iterator[tuple[str, str]]:
    """All texts of it, with where they stand."""
    if isinstance(found, Rejection):
        yield "reason", found.reason  # the core looks after its text
        return
    for message in found.messages:
        yield f"{message.role}'s turn", message.content
    yield "meta", json.dumps(dict(found.meta), default=repr, ensure_ascii=False)
