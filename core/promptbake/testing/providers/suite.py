"""The conformance suite for data providers."""

from __future__ import annotations

import json
import math
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from promptbake.dataset import conversations
from promptbake.errors import BakeError
from promptbake.files import JsonLines
from promptbake.interfaces import DataProvider
from promptbake.testing.etiquette import RefusedKeyTests
from promptbake.testing.providers.costs import CostTests
from promptbake.testing.providers.generate_call import (
    BATCH,
    GenerateCall,
    Item,
    check_refused,
    check_types,
    one_line,
    recorded,
)
from promptbake.testing.providers.samples import SampleTests
from promptbake.testing.suite import only_if
from promptbake.types import Message, Query, Rejection

LEAK = 24  # characters of the prompt in a row, which stand nowhere by chance


class DataProviderSuite(SampleTests, CostTests, RefusedKeyTests):
    """Fixture `provider`: the data provider.

    `broken`, a fixture that you may add: the same, where its service answers with errors alone. Let
    a fake service give answers that depend on all that it is sent: the messages, the temperature,
    the limit, and the seed if it takes one.

    With `uses_base_model`, an answer is what the model said to the letter; a provider that tidies
    on purpose waives `test_an_answer_is_what_the_model_said`.

    - `samples = False`: it hands out what is stored, and asks no model.
    - `uses_base_model = True`: the answers come from `job.open_model()`.
    - `brings_queries = True`: it has queries of its own.
    - `seeded = False`: the same job may give other answers the next time.
    - `several_turns = True`: it gives conversations of more than one answer.
    - `paid = True`: it pays for answers, and reserves the money in `job.budget`.
    - `temperatures`: two that it can sample at, beside 1.
    """

    def test_it_brings_queries_as_the_flag_says(self, provider: DataProvider) -> None:
        queries = tuple(provider.queries())
        assert bool(queries) == self.brings_queries, (
            f"`brings_queries` is {self.brings_queries}, and queries() gives {len(queries)}"
        )
        for each in queries:
            assert isinstance(each, Query), f"queries() gives {each!r}: expected promptbake's Query"

    @only_if("brings_queries")
    def test_it_brings_enough_queries_for_a_split(self, provider: DataProvider) -> None:
        different = {query.messages for query in provider.queries()}
        assert len(different) > 1, (
            f"queries() gives {len(different)} different one: one is held out, the others are "
            "trained on"
        )

    @only_if("brings_queries")
    def test_its_queries_have_ids_of_their_own(self, provider: DataProvider) -> None:
        for id_, times in Counter(query.id for query in provider.queries()).items():
            assert isinstance(id_, str), f"a query has the id {id_!r}: expected text"
            assert id_, "a query has an empty id"
            assert times == 1, f"{times} queries have the id {id_!r}: number them"

    @only_if("brings_queries")
    def test_its_queries_end_with_the_users_turn(self, provider: DataProvider) -> None:
        for query in provider.queries():
            check_turns(query.messages, f"query {query.id}")
            assert query.messages[-1].role == "user", (
                f"query {query.id}: ends with the assistant's turn: leave the answer to generate"
            )

    @only_if("brings_queries")
    def test_it_brings_the_same_queries_again(self, provider: DataProvider) -> None:
        first, again = (tuple(provider.queries()) for _ in range(2))
        assert first == again, (
            "queries() gives others the second time: look for random ids, a set's order, and an "
            "iterator that is used up"
        )

    def test_it_answers_every_request_once(self, generated: GenerateCall) -> None:
        times = Counter(item.id for item in generated.items)
        twice = [id_ for id_, n in times.items() if n > 1]
        assert not twice, (
            f"{twice[0]!r} came {times[twice[0]]} times: give each the id of its request, which "
            "is not its query's"
        )
        if self.brings_queries:  # stored answers may have ids of their own
            wanted = {request.query.id for request in generated.job.requests}
            missing = wanted - {item.query_id for item in generated.items}
        else:
            unknown = times.keys() - generated.requests.keys()
            assert not unknown, f"{min(unknown)!r} came, and is no request's id"
            missing = generated.requests.keys() - times.keys()
        assert not missing, (
            f"nothing came for {len(missing)} of {len(generated.job.requests)}, such as "
            f"{min(missing)!r}: yield a Conversation, or a Rejection with its reason, for each"
        )

    def test_its_items_are_of_the_interfaces_types(self, provider: DataProvider) -> None:
        call = self._call(provider).attempt()
        assert call.items, "generate yields nothing"
        for item in call.items:
            check_types(item)

    def test_an_answer_names_its_query(self, generated: GenerateCall) -> None:
        for item in generated.items:
            assert item.query_id in generated.queries, (
                f"{item.id}: the query_id {item.query_id!r} is no query's id"
            )
            if request := generated.requests.get(item.id):
                assert item.query_id == request.query.id, (
                    f"{item.id}: the query_id is {item.query_id!r}, not {request.query.id!r}: two "
                    "queries may have the same words"
                )

    def test_a_conversation_is_its_query_and_an_answer(self, generated: GenerateCall) -> None:
        for each in generated.conversations.values():
            if each.query_id not in generated.queries:
                continue
            query = generated.queries[each.query_id].messages
            start, rest = each.messages[: len(query)], each.messages[len(query) :]
            assert start == query, (
                f"{each.id}: begins with {start}, and its query is {query}: keep its turns as they "
                "are, white space included"
            )
            roles = ", ".join(message.role for message in rest) or "none"
            if each.id in generated.requests:
                assert roles == "assistant", (
                    f"{each.id}: the turns after its query are {roles}: expected one answer"
                )
            check_turns(each.messages, each.id)
            assert each.messages[-1].role == "assistant", f"{each.id}: ends with the user's turn"

    def test_the_prompt_is_in_nothing_that_it_yields(self, generated: GenerateCall) -> None:
        prompt = one_line(generated.job.prompt.text)
        parts = [prompt[start : start + LEAK] for start in range(len(prompt) - LEAK + 1)]
        for item in generated.items:
            for place, text in _texts(item):
                # The model may quote a part of it, and only the model.
                needles = [prompt] if place == "assistant's turn" else parts
                leaks = [part for part in needles if part in one_line(text)]
                assert not leaks, (
                    f"{item.id}: {leaks[0]!r} of the prompt is in its {place}: give the prompt to "
                    "the model alone. A fake service must not repeat it"
                )

    def test_what_is_completed_is_not_yielded_again(self, generated: GenerateCall) -> None:
        stored, left = generated.items[::2], generated.items[1::2]
        again = {item.id for item in generated.resumed(stored).run().items}
        repeated = sorted(again & {item.id for item in stored})
        assert not repeated, f"{repeated[0]!r} was in job.completed_ids, and came again"
        missing = sorted({item.id for item in left} - again)
        assert not missing, f"{missing[0]!r} was not in job.completed_ids, and did not come"

    def test_where_all_is_completed_nothing_is_asked_for(self, generated: GenerateCall) -> None:
        again = generated.resumed(generated.items).run()
        assert not again.items, f"{again.items[0].id!r} came where all was completed"
        assert not again.model.sampled, "the base model was sampled from where all was completed"
        assert not again.budget.reservations, "money was reserved where all was completed"

    def test_it_can_be_called_again(self, generated: GenerateCall) -> None:
        again = self._call(generated.provider).run()
        assert len(again.items) == len(generated.items), (
            f"{len(generated.items)} answers came the first time, and {len(again.items)} the "
            "second: look for an iterator that is used up"
        )
        assert again.conversations

    def test_it_yields_each_answer_as_it_is_ready(self, provider: DataProvider) -> None:
        call = self._call(provider, model=recorded(sample_batch=BATCH))
        items = provider.generate(call.job)
        assert isinstance(items, Iterator), (
            f"generate gives a {type(items).__name__}: expected an iterator"
        )
        assert list(items), "generate yields nothing"
        if self.uses_base_model:
            sampled = len(call.model.sampled)
            model = recorded(sample_batch=BATCH, fails_after=sampled - 1)
            assert self._call(provider, model=model).attempt().items, (
                f"the model failed after {sampled - 1} responses of {sampled}, and none of them "
                "had been yielded, so that a failure loses them all: yield inside the loop"
            )

    def test_its_meta_is_flat(self, generated: GenerateCall) -> None:
        for each in generated.conversations.values():
            for name, value in each.meta.items():
                where = f"{each.id}: meta[{name!r}] is {value!r}"
                assert isinstance(name, str), f"{where}: expected text for its name"
                assert value is None or isinstance(value, str | int | float), (
                    f"{where}, a {type(value).__name__}: expected text, a plain number or None"
                )
                assert not isinstance(value, float) or math.isfinite(value), (
                    f"{where}, which JSON does not have: write None"
                )

    def test_its_conversations_can_be_stored_and_read(
        self, generated: GenerateCall, tmp_path: Path
    ) -> None:
        # Those without an answer are left out by the core, and counted.
        stored = [each for each in generated.conversations.values() if each.response.strip()]
        path = tmp_path / "data.jsonl"
        with JsonLines(path) as file:
            for each in stored:
                try:
                    file.append(conversations.to_line(each))
                except (TypeError, ValueError) as error:
                    pytest.fail(f"{each.id}: cannot be written to data.jsonl: {error}; {each}")
        for before, after in zip(stored, conversations.read(path), strict=True):
            assert before == after, f"{before} was written to data.jsonl, and {after} read"

    def test_it_reports_its_progress_in_responses(self, generated: GenerateCall) -> None:
        negative = [done for done in generated.progress if not done >= 0]
        assert not negative, f"job.progress was given {negative[0]!r}: expected 0 or above"
        total, most = sum(generated.progress), len(generated.job.requests)
        assert total <= most + 0.01, (
            f"job.progress was given {total:.1f} responses of {most}: give what was done since "
            "the last call"
        )
        for note in generated.notes:
            assert len(note.splitlines()) <= 1, f"job.note was given {note!r}: expected one line"

    @only_if("keys")
    def test_it_asks_for_a_key_that_is_not_set(
        self, provider: DataProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in self.keys:
            with monkeypatch.context() as patch:
                patch.delenv(name, raising=False)
                call = self._call(provider).attempt()
            if call.error is not None:  # else it was read before, or is not needed
                check_refused(call, f"{name} is not set")
                assert name in str(call.error), f"{call.error}: say that it is {name}"

    def _use(self, request: pytest.FixtureRequest) -> Mapping[str, object]:
        names = ["provider", "broken"] if self.broken else ["provider"]
        providers = [request.getfixturevalue(name) for name in names]
        calls = [self._call(provider).attempt() for provider in providers]
        errors = [call.error for call in calls if call.error is not None]
        return {
            "what was yielded": [call.items for call in calls],
            "an error": "".join("".join(traceback.format_exception(error)) for error in errors),
            "a note": [call.notes for call in calls],
            "the estimate": providers[0].estimate_cost(calls[0].job),
            "the provider's repr": providers,
        }


def check_turns(messages: tuple[Message, ...], where: str) -> None:
    """Refuse turns that the core does not read back, but for an empty answer."""
    if not messages[-1].content.strip():
        messages = (*messages[:-1], Message(messages[-1].role, "?"))
    try:
        line = {"messages": conversations.messages_to_json(messages)}
        conversations.check_messages(line, where)
    except BakeError as error:
        pytest.fail(str(error))


def _texts(item: Item) -> Iterator[tuple[str, str]]:
    """All texts of it, with where they are."""
    if isinstance(item, Rejection):
        yield "reason", item.reason  # the core looks after its text
        return
    for message in item.messages:
        yield f"{message.role}'s turn", message.content
    yield "meta", json.dumps(dict(item.meta), default=repr, ensure_ascii=False)
