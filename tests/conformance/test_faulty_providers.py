"""DataProviderSuite passes good data providers; each faulty one fails the test meant for it."""

from __future__ import annotations

from functools import partial

import pytest
from faulty_suites import suite_for, suites_for
from toy_providers import BASE, SHELF, provider

from promptbake.interfaces import DataProvider
from promptbake.testing import DataProviderSuite

SAMPLE, EACH, RETURN = "sample_responses(job)", "(item for", "return (item for item in items)"
WHOLE = f"items = {SAMPLE}\n        {RETURN}"


def as_if(changes: str) -> tuple[str, str]:
    """Works as if the job were another."""
    return SAMPLE, f"sample_responses(replace(job, {changes}))"


def requests(changes: str) -> tuple[str, str]:
    """Works as if the requests were others."""
    return as_if(f"requests=tuple(replace(each, {changes}) for each in job.requests)")


def asks(turns: str) -> tuple[str, str]:
    """Works as if the queries had other turns."""
    changed = turns.replace("turns", "each.query.messages")
    return requests(f"query=replace(each.query, messages={changed})")


def samples(arguments: str, change: str) -> tuple[str, str]:
    """With a base model that samples otherwise."""
    change = f"lambda good, prompts, {arguments}: {change}"
    return as_if(f"open_model=lambda: Sampler(job.open_model(), {change})")


def each(change: str) -> tuple[str, str]:
    """With something else in the place of each item."""
    return EACH, f"({change} for"


def messages(turns: str) -> tuple[str, str]:
    """With other turns of each conversation."""
    return each(f"replace(item, messages={turns.replace('turns', 'item.messages')})")


def says(text: str) -> tuple[str, str]:
    """With another text of each answer."""
    changed = text.replace("text", "turns[-1].content")
    return messages(f"(*turns[:-1], Message('assistant', {changed}))")


def meta(more: str) -> tuple[str, str]:
    """With more in meta."""
    return each(f"replace(item, meta={{**item.meta, {more}}})")


def queries(changes: str) -> tuple[str, str]:
    """With other queries of its own."""
    return "return queries", f"return [replace(query, {changes}) for query in queries]"


BEST_OF_TWO = (  # samples two responses a request, and keeps the longer one
    "return estimate_responses(job)", "return estimate_responses(job) + estimate_responses(job)",
    WHOLE, """job = replace(job, progress=no_progress)
        both = sample_responses(job), sample_responses(replace(job, seed=derive(job.seed)))
        return (max(pair, key=lambda each: len(each.response)) for pair in zip(*both))""",
)  # fmt: skip
STREAM = (  # takes the tokens as they come
    WHOLE, """model = job.open_model()

        def streamed(good, prompts, max_tokens, temperatures, seeds, progress):
            for index, row in enumerate(zip(prompts, temperatures, seeds)):
                how = dict(zip(("temperature", "seed"), row[1:]), max_tokens=max_tokens)
                chunks = list(model.stream(row[0], **how))
                tokens = tuple(token for chunk in chunks for token in chunk.tokens)
                yield index, Completion(tokens, chunks[-1].stop_reason == "stop")

        return sample_responses(replace(job, open_model=lambda: Sampler(model, streamed)))""",
)  # fmt: skip
TIDY = (
    EACH,
    """(  # strips its answers, and leaves out what is too short
            replace(item, messages=(*item.messages[:-1], Message("assistant", text)))
            if len(text := item.response.strip()) > 1
            else Rejection(item.id, item.query_id, "it is too short", item.response) for""",
)
FAULTS = {
    "test_the_prompt_is_in_nothing_that_it_yields": {
        "saves_the_system_message": messages("(Message('system', job.prompt.text), *turns)"),
        "saves_the_prompt_in_the_users_turn": messages("(*pasted(turns[:-1], job), turns[-1])"),
        "saves_a_part_of_the_prompt_in_meta": meta("'system': job.prompt.text[:30]"),
    },
    "test_it_answers_every_request_once": {
        "leaves_out_the_last": (RETURN, "return iter(list(items)[:-1])"),
        "yields_one_twice": (RETURN, "return iter((items := list(items)) + items[2:3])"),
        "takes_the_querys_id": each("replace(item, id=item.query_id)"),
    },
    "test_an_answer_names_its_query": {
        "finds_queries_by_their_words": each(
            "replace(item, query_id={each.query.messages: each.query.id for each in job.requests}"
            "[item.messages[:-1]])"),
    },
    "test_a_conversation_is_its_query_and_an_answer": {
        "strips_the_users_words": messages(
            "tuple(Message(each.role, each.content.strip()) for each in turns)"),
        "saves_the_last_turn_alone": messages("turns[-2:]"),
        "ends_with_the_user": messages("(*turns, Message('user', 'Thank you.'))"),
    },
    "test_the_base_model_reads_the_prompt_and_the_query": {
        "reads_the_last_turn_alone": asks("turns[-1:]"),
        "ignores_the_prompt": as_if("prompt=NO_PROMPT"),
        "keeps_the_first_prompt": as_if("prompt=KEPT.setdefault('', job.prompt)"),
        "keeps_prompts_by_their_names": as_if(
            "prompt=KEPT.setdefault(job.prompt.name, job.prompt)"),
        "pastes_the_prompt_into_the_users_turn": asks("pasted(turns, job)"),
        "sends_an_empty_system_message": as_if("prompt=Prompt('', job.prompt.text or ' ')"),
    },
    "test_the_answers_depend_on_the_prompt": {
        "ignores_the_prompts_text": as_if("prompt=NO_PROMPT"),
    },
    "test_an_answer_is_what_the_model_said": {
        "strips": says("text.strip()"),
        "lowers": says("text.lower()"),
        "joins_lines": says(r"text.replace('\n', ' ')"),
    },
    "test_the_base_model_samples_at_each_requests_temperature": {
        "one_temperature": requests("temperature=1.0"),
        "takes_zero_for_nothing": requests("temperature=each.temperature or 1.0"),
    },
    "test_meta_has_the_temperature": {
        "omits_the_temperature": each("replace(item, meta={'category': item.meta['category']})"),
    },
    "test_an_answer_has_no_more_than_max_tokens": {"a_limit_of_its_own": as_if("max_tokens=12")},
    "test_an_answer_may_have_max_tokens": {
        "short_responses_alone": as_if("max_tokens=min(job.max_tokens, 8)"),
    },
    "test_complete_is_that_of_the_completion": {
        "always_complete": each("replace(item, complete=True)"),
        "never_complete": each("replace(item, complete=False)"),
    },
    "test_each_answer_is_that_of_its_own_request": {
        "ignores_the_index": samples(
            "**how", "((n, last) for n, (_, last) in enumerate(good(prompts, **how)))"),
    },
    "test_the_answers_follow_the_seed_as_the_flag_says": {
        "unseeded": as_if("seed=NEXT()"),
        "ignores_the_seed": as_if("seed=0"),
        "is_not_seeded": ({"seeded": False},),
    },
    "test_each_request_has_a_seed_of_its_own": {
        "one_seed_for_all": samples(
            "seeds, **how", "good(prompts, seeds=[0] * len(prompts), **how)"),
    },
    "test_an_answer_does_not_depend_on_what_is_completed": {
        "seeds_by_the_place": (SAMPLE, "seeds_by_the_place(job)"),
    },
    "test_what_is_completed_is_not_yielded_again": {
        "yields_what_is_completed": as_if("completed_ids=frozenset()"),
    },
    "test_where_all_is_completed_nothing_is_asked_for": {
        "samples_what_is_completed": (
            *as_if("completed_ids=frozenset()"),
            "in items)", "in items if item.id not in job.completed_ids)"),
    },
    "test_it_yields_each_answer_as_it_is_ready": {
        "collects_all": (RETURN, "yield from list(items)"),
        "gives_a_list": (RETURN, "return list(items)"),
    },
    "test_it_refuses_at_once_where_there_is_no_base_model": {
        "opens_the_model_late": (RETURN, "yield from items"),
    },
    "test_an_error_of_the_base_model_is_not_swallowed": {
        "swallows_errors": (
            WHOLE, f"try:\n            yield from {SAMPLE}\n        except Exception:\n"
            "            return"),
        "wraps_errors": (
            WHOLE, f"try:\n            yield from {SAMPLE}\n        except BakeError:\n"
            "            raise RuntimeError('generation has failed') from None"),
        "rejects_what_failed": (
            WHOLE, f"""missing = {{each.id: each for each in left(job)}}
        try:
            for item in {SAMPLE}:
                missing.pop(item.id)
                yield item
        except BakeError as error:
            for each in missing.values():
                yield Rejection(each.id, each.query.id, str(error))
            raise"""),
    },
    "test_it_refuses_several_turns": {"ignores_turns": as_if("turns=1")},
    "test_its_meta_is_flat": {
        "nests_its_meta": meta("'usage': {'tokens': 3}"),
        "not_a_number_in_meta": meta("'logprob': math.nan"),
    },
    "test_its_items_are_of_the_interfaces_types": {
        "turns_as_dicts": messages("tuple(map(vars, turns))"),
        "turns_as_a_list": messages("list(turns)"),
        "rejects_without_a_reason": each(
            "Rejection(item.id, item.query_id, '') if item.query_id == 'q0' else item"),
    },
    "test_its_conversations_can_be_stored_and_read": {
        "half_a_character": says(r"text + '\ud83c'"),
    },
    "test_it_can_be_called_again": {
        "rejects_what_it_saw": each(
            "Rejection(item.id, item.query_id, 'it is identical to an earlier one') "
            "if KEPT.setdefault(item.messages, job) is not job else item"),
    },
    "test_it_prints_nothing": {"prints": each("print(item.id) or item")},
    "test_it_reports_its_progress_in_responses": {
        "reports_percent": each("job.progress(50) or item"),
    },
    "test_an_estimate_is_in_numbers_and_sends_nothing": {
        "samples_to_estimate": (
            "return estimate", "list(self.generate(replace(job, requests=job.requests[:1])))\n"
            "        return estimate"),
    },
    "test_an_estimate_is_for_what_is_not_completed": {
        "estimates_what_is_completed": (
            "estimate_responses(job)", "estimate_responses(replace(job, completed_ids=()))"),
    },
    "test_an_estimate_covers_what_is_sampled": {
        "estimates_short_responses": (
            "estimate_responses(job)",
            "estimate_responses(replace(job, max_tokens=job.max_tokens // 2))"),
    },
    "test_it_samples_as_the_flags_say": {
        "does_not_use_the_base_model": ({"uses_base_model": False},),
        "does_not_sample": ({"samples": False},),
    },
    "test_it_reserves_money_as_the_flag_says": {"is_paid": ({"paid": True},)},
    "test_it_gives_as_many_answers_as_turns": {"has_several_turns": ({"several_turns": True},)},
    "test_it_brings_queries_as_the_flag_says": {"has_queries": ({"brings_queries": True},)},
}  # fmt: skip
SHELF_FAULTS = {
    "test_its_queries_have_ids_of_their_own": {"two_queries_of_one_id": queries("id='shelf'")},
    "test_it_brings_enough_queries_for_a_split": {
        "one_query": ("return queries", "return queries[:1]"),
    },
    "test_its_queries_end_with_the_users_turn": {
        "answered_queries": queries("messages=(*query.messages, Message('assistant', 'Hm.'))"),
        "queries_with_a_system_message": queries(
            "messages=(Message('system', 'Be kind.'), *query.messages)"),
    },
    "test_it_brings_the_same_queries_again": {
        "new_ids_each_time": queries("id=f'{query.id}-{NEXT()}'"),
        "used_up_queries": ("return queries", "return list(KEPT.setdefault('', iter(queries)))"),
    },
    "test_it_can_be_called_again": {
        "reads_its_file_once": ("return stored", "return KEPT.setdefault('', iter(stored))"),
    },
    "test_an_answer_names_its_query": {
        "query_ids_of_its_own": each("replace(item, query_id='file.jsonl')"),
    },
    "test_it_answers_every_request_once": {
        "leaves_a_query_out": ("in items)", "in items if not item.id.startswith('shelf-1'))"),
    },
    "test_it_samples_as_the_flags_say": {
        "other_answers_each_time": says("f'Arr, {NEXT()} of them.'"),
        "depends_on_the_seed": says("f'Arr, {job.seed}.'"),
        "opens_a_model_in_vain": ("items = [", "job.open_model()\n        items = ["),
    },
    "test_a_conversation_is_its_query_and_an_answer": {
        "two_answers_in_a_row": messages("(*turns, turns[-1])"),
    },
    "test_the_answers_depend_on_the_prompt": {"samples": ({"samples": True},)},
    "test_it_brings_queries_as_the_flag_says": {"has_no_queries": ({"brings_queries": False},)},
}  # fmt: skip


@pytest.mark.xfail(reason="it strips its answers on purpose", strict=True)
def strips_on_purpose(self: DataProviderSuite, provider: DataProvider) -> None:
    DataProviderSuite.test_an_answer_is_what_the_model_said(self, provider)


USES_BASE_MODEL = {"uses_base_model": True}
IS_SHELF = {"samples": False, "brings_queries": True}
STRIPS = {"test_an_answer_is_what_the_model_said": strips_on_purpose}
GOOD = {
    "": (BASE, (), USES_BASE_MODEL),
    "BestOfTwo": (BASE, BEST_OF_TWO, USES_BASE_MODEL),
    "Stream": (BASE, STREAM, USES_BASE_MODEL),
    "AndTidy": (BASE, TIDY, USES_BASE_MODEL | STRIPS),
    "Shelf": (SHELF, (), IS_SHELF),
}

for source, faults, flags in ((BASE, FAULTS, USES_BASE_MODEL), (SHELF, SHELF_FAULTS, IS_SHELF)):
    make = partial(provider, source)
    globals().update(suites_for(DataProviderSuite, "provider", make, faults, **flags))
for name, (source, edits, flags) in GOOD.items():
    make = partial(provider, source, *edits)
    globals()[f"TestGood{name}"] = suite_for(DataProviderSuite, "provider", make, **flags)
