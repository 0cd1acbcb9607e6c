"""TeacherSuite passes good teachers, and each faulty one fails the test that is meant for it."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from typing import Any

import pytest
from faulty_suites import edited, suite_for, suites_for, template
from torch import Tensor

from promptbake import mask_top_k_draws
from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.testing import TeacherSuite
from promptbake.testing.teachers.spans import tiny_logprobs
from promptbake.types import Message, Span

KEY, VALUE = "TOY_TEACHER_KEY", "toy-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, VALUE)


def whole_of(model: Model | None, span: Span) -> Tensor:
    if model is not None and len(span.tokens) > model.context_tokens:
        raise BakeError("the span is longer than the context")
    return tiny_logprobs(span)


WHOLE = "whole_of(model, span)"  # in the place of a model of a plugin's
SOURCE = template("teachers").replace("(logprobs,) = model.logprobs([span])", f"logprobs = {WHOLE}")
KNOWN = (  # to the edits
    BakeError, Message, logging, mask_top_k_draws, math, os, replace, whole_of,
)  # fmt: skip


def teacher(*edits: str) -> Any:
    known = {each.__name__: each for each in KNOWN}
    return edited(SOURCE, edits, KEY=KEY, VALUE=VALUE, CACHE={}, **known)["Toy"]()


BEGIN, SCORES, SPANS = "model = open_model()", "return ((i,", "enumerate(spans))"
TOP = "top.indices, top.values, drawn,"
PARTS = f"{TOP} drawn_logprobs, weights"
DRAW, TAIL = "torch.multinomial(tail,", "tail = logprobs.exp().scatter(1, top.indices, 0.0)"
GENERATOR, WEIGHTS = "torch.Generator().manual_seed(seed)", "drawn_logprobs, weights)"


def before(place: str, statement: str) -> tuple[str, str]:
    """Does something before it goes on; indented as in `score`."""
    return place, f"{statement}\n        {place}"


def parts(change: str) -> tuple[str, str]:
    """With each tensor of a result changed."""
    return f"Logprobs({PARTS})", f"Logprobs(*({change} for part in ({PARTS})))"


def numbers(change: str) -> tuple[str, str]:
    """With other log-probabilities for the same tokens."""
    top, drawn = change.format("top.values"), change.format("drawn_logprobs")
    return "top.values, drawn, drawn_logprobs,", f"{top}, drawn, {drawn},"


def ids(change: str) -> tuple[str, str]:
    """With other tokens in the top K, and their log-probabilities."""
    return TOP, f"(ids := {change}), logprobs.gather(1, ids), drawn,"


def reads(tokens: str) -> tuple[str, str]:
    """Reads other tokens."""
    return WHOLE, f"whole_of(model, replace(span, tokens={tokens}))"


SAYS = "samples_tail = True", "samples_tail = False"
NO_TAIL = *SAYS, *before(BEGIN, "if draws:\n            raise BakeError('set train.tail=bucket')")
OWN_MODEL = BEGIN, "model = None"
NO_DRAWS, OWN = (
    {"samples_tail": False},
    {"uses_base_model": False},
)
FAULTS = {
    "test_each_span_is_scored_once": {
        "leaves_out_the_last": (SPANS, "enumerate(spans[:-1]))"),
        "scores_twice": (SPANS, "2 * [*enumerate(spans)])"),
        "counts_from_one": (SCORES, "return ((i + 1,"),
        "tells_spans_by_their_tokens": (
            SPANS, "{span: (i, span) for i, span in enumerate(spans)}.values())"),
    },
    "test_each_result_comes_with_its_spans_index": {
        "counts_its_results": (
            SPANS, "enumerate(sorted(spans, key=lambda span: len(span.tokens))))"),
    },
    "test_each_response_token_has_a_row": {
        "transposed": parts("part.T"),
        "drops_the_last_token": parts("part[:-1]"),
        "squeezed": parts("part.squeeze()"),
    },
    "test_the_tensors_have_the_documented_types": {
        "int32": parts("part if part.is_floating_point() else part.int()"),
        "float64": numbers("{}.double()"),
    },
    "test_each_row_has_k_tokens": {
        "one_more_than_k": ("min(k, logprobs.shape[1])", "k + 1"),
        "at_least_five": ("min(k, logprobs.shape[1])", "max(k, 5)"),
    },
    "test_each_row_has_distinct_tokens_most_likely_first": {
        "in_the_order_of_ids": ids("top.indices.sort(dim=1).values"),
        "repeats_a_token_to_fill_a_row": ids("top.indices[:, [0, 1, 2, 3, 4, 4][:k]]"),
    },
    "test_the_numbers_are_finite_and_no_log_probability_is_positive": {
        "fills_a_row_with_minus_infinity": (
            TOP, "top.indices, top.values.where(torch.arange(k) < 5, -torch.inf), drawn,"),
        "negative_log_probabilities": numbers("-{}"),
    },
    "test_the_log_probabilities_are_the_models_in_nats": {
        "bits": numbers("{} / math.log(2)"),
        "probabilities": numbers("{}.exp()"),
        "half_precision": numbers("{}.bfloat16().float()"),
        "logits": (WHOLE, f"{WHOLE} + torch.arange(span.n_response).unsqueeze(1) % 3 + 5"),
        "renormalised_over_k": (TOP, "top.indices, top.values.log_softmax(1), drawn,"),
        "the_next_positions": reads("(*span.tokens, 0)"),
        "the_positions_before": reads("span.tokens[:-1]"),
    },
    "test_the_distribution_is_at_temperature_1": {
        "at_the_responses_temperature": (
            WHOLE, f"({WHOLE} / span.temperature).log_softmax(dim=1)"),
    },
    "test_no_token_left_out_is_likelier": {
        "samples_in_place_of_the_top_k": ids(
            "torch.multinomial(logprobs.exp(), k, generator=torch.Generator().manual_seed(0))"),
        "keeps_the_responses_token": ids(  # as a service does that lists the prompt's own token
            "torch.where((top.indices == torch.tensor(span.tokens[-span.n_response :])"
            ".unsqueeze(1)).any(dim=1, keepdim=True), top.indices, torch.cat([top.indices[:, :-1],"
            " torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)], dim=1))"),
    },
    "test_it_reads_the_system_prompt": {
        "scores_the_student": (  # the conversation without its system prompt
            WHOLE, "whole_of(model, replace(span, tokens=default[: default.index(stop)]"
            " + span.tokens[span.tokens.index(stop) :]))", "import torch\n",
            "import torch\n    (stop,) = model.renderer.stop_ids\n"
            "    default = model.renderer.prompt((Message('user', '?'),))\n"),
        "tells_spans_by_name": before(
            SCORES, "first = {span.name: span for span in reversed(spans)}\n        spans = "
            "[replace(first[each.name], temperature=each.temperature) for each in spans]"),
    },
    "test_it_reads_the_response": {
        "caches_by_prompt": (
            WHOLE, f"CACHE.setdefault(span.tokens[: -span.n_response], {WHOLE})"),
    },
    "test_it_reads_a_long_prompt_from_its_beginning": {
        "cuts_long_prompts": reads("span.tokens[-512:]"),
    },
    "test_a_span_beyond_the_context_is_not_cut": {
        "cuts_at_the_context": reads("span.tokens[-2048:]"),
    },
    "test_a_result_does_not_depend_on_the_other_spans": {
        "pads_without_a_mask": before(
            SCORES, "longest = max(len(span.tokens) for span in spans)\n        spans = "
            "[replace(s, tokens=(0,) * (longest - len(s.tokens)) + s.tokens) for s in spans]"),
        "seeds_by_place": ("draws, seeds[i])", "draws, i)"),
    },
    "test_the_input_is_unchanged": {
        "sorts_in_place": before(BEGIN, "spans.sort(key=lambda span: len(span.tokens))"),
    },
    "test_the_same_spans_give_the_same_result": {"unseeded": (GENERATOR, "None")},
    "test_another_seed_gives_other_draws": {
        "one_seed_for_all": (GENERATOR, "torch.Generator().manual_seed(0)"),
    },
    "test_the_global_random_state_is_unchanged": {
        "seeds_the_global_generator": (GENERATOR, "torch.manual_seed(seed)"),
    },
    "test_it_draws_nothing_where_draws_is_0": {
        "draws_where_none_is_requested": ("span, k, draws, seeds", "span, k, max(draws, 1), seeds"),
    },
    "test_it_gives_the_draws_that_it_says": {
        "one_draw_for_all": ("span, k, draws, seeds", "span, k, min(draws, 1), seeds"),
    },
    "test_draws_have_the_models_log_probabilities": {
        "log_probabilities_given_the_tail": (
            WEIGHTS, "drawn_logprobs - tail.sum(dim=1, keepdim=True).log(), weights)"),
    },
    "test_a_draw_inside_the_top_k_has_weight_0": {
        "counts_the_top_k_twice": (TAIL, "tail = logprobs.exp()"),
    },
    "test_the_draws_estimate_the_tail_without_bias": {
        "weights_of_the_tail": (
            TAIL, "tail = logprobs.exp()",
            WEIGHTS, "drawn_logprobs, mask_top_k_draws(top.indices, *draw)[2])",
            "return TeacherLogprobs(", "draw = drawn, drawn_logprobs, weights\n"
            "    return TeacherLogprobs("),
        "every_weight_is_1": (WEIGHTS, "drawn_logprobs, torch.ones_like(weights))"),
        "not_divided_by_m": (WEIGHTS, "drawn_logprobs, weights * draws)"),
        "divided_by_m_twice": (WEIGHTS, "drawn_logprobs, weights / draws)"),
        "without_replacement": ("replacement=True", "replacement=False"),
        "draws_at_the_responses_temperature": (
            DRAW, "torch.multinomial(tail ** (1 / span.temperature),"),
    },
    "test_it_says_whether_it_draws": {"says_that_it_draws": (NO_DRAWS,)},
    "test_it_refuses_draws_that_it_cannot_make": {
        "ignores_draws": (*SAYS, "span, k, draws, seeds", "span, k, 0, seeds", NO_DRAWS),
    },
    "test_an_error_of_the_base_model_is_not_swallowed": {
        "swallows_errors": (
            BEGIN, f"try:\n            {BEGIN}\n        except BakeError:\n            return"
            " iter(())"),
        "hides_the_reason": (
            BEGIN, f"try:\n            {BEGIN}\n        except BakeError:\n            raise"
            " BakeError('the teacher could not be asked') from None"),
    },
    "test_it_opens_the_base_model_as_the_flag_says": {"opens_in_secret": (OWN,)},
    "test_it_prints_nothing": {"prints": before(BEGIN, "print('scoring')")},
    "test_no_key_is_seen": {
        "logs_its_key": before(BEGIN, "logging.getLogger('toy').debug(os.environ[KEY])"),
    },
    "test_a_refused_key_is_not_seen": {
        "shows_a_refused_key": before(
            BEGIN, "if os.environ[KEY] != VALUE:\n            raise BakeError(os.environ[KEY])"),
    },
    "test_the_flags_are_strict_enough": {
        "coarse": ({"tolerance": 10.0},), "too_few_columns": ({"top_k": 2},),
    },
}  # fmt: skip
GOOD = {"": ((), {}), "NoTail": (NO_TAIL, NO_DRAWS),
        "OwnModel": (OWN_MODEL, OWN)}  # fmt: skip

globals().update(suites_for(TeacherSuite, "teacher", teacher, FAULTS, keys=(KEY,)))
for name, (edits, flags) in GOOD.items():
    globals()[f"TestGood{name}"] = suite_for(
        TeacherSuite, "teacher", lambda edits=edits: teacher(*edits), keys=(KEY,), **flags
    )
