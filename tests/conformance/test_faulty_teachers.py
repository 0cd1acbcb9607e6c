"""TeacherSuite passes good teachers, and each faulty one fails the test that is meant for it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from faulty_suites import Fault, around, suite_for, suites_for
from torch import Tensor
from toy_teachers import Draws, Good, NoTail, OwnModel, Results

from promptbake.distill.objective import mask_top_k_draws
from promptbake.errors import BakeError
from promptbake.interfaces import Model
from promptbake.testing import TeacherSuite
from promptbake.types import Message, Span, TeacherLogprobs

KEY, VALUE = "TOY_TEACHER_KEY", "toy-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, VALUE)


def score(change: Callable[..., Any]) -> Mapping[str, Any]:
    return {"score": around(change)}


def results(change: Callable[[list[Any]], Sequence[Any]]) -> Mapping[str, Any]:
    """With another list of what `score` yields."""
    return score(lambda good, spans, **how: iter(change(list(good(spans, **how)))))


def tensors(change: Callable[[Tensor], Tensor]) -> Mapping[str, Any]:
    """With each tensor of a result changed."""

    def changed(good: Any, *args: Any) -> TeacherLogprobs:
        return TeacherLogprobs(*map(change, vars(good(*args)).values()))

    return {"result": around(changed)}


def numbers(change: Callable[[Tensor], Tensor]) -> Mapping[str, Any]:
    """With other log-probabilities for the same tokens."""

    def changed(good: Any, *args: Any) -> TeacherLogprobs:
        result = good(*args)
        drawn = change(result.drawn_logprobs)
        return replace(result, logprobs=change(result.logprobs), drawn_logprobs=drawn)

    return {"result": around(changed)}


def top(change: Callable[[Tensor, Span, Tensor], tuple[Tensor, Tensor]]) -> Mapping[str, Any]:
    """With another top K: `change` is given all log-probabilities, the span and the good ids."""
    return {
        "top": around(lambda good, whole, span, k: change(whole, span, good(whole, span, k)[0]))
    }


def reads(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Mapping[str, Any]:
    """Reads other tokens."""

    def whole(good: Any, model: Model, span: Span) -> Tensor:
        return good(model, replace(span, tokens=change(span.tokens)))

    return {"whole": around(whole)}


def drawn(draws: Callable[[int], int]) -> Mapping[str, Any]:
    """With another number of draws."""

    def changed(good: Any, whole: Tensor, top: Tensor, span: Span, m: int, seed: int) -> Draws:
        return good(whole, top, span, draws(m), seed)

    return {"drawn": around(changed)}


def weights(change: Callable[[Tensor], Tensor]) -> Mapping[str, Any]:
    """With other probabilities of the draws [N, M], of which the importance weights are made."""
    return {"drawn_with": around(lambda good, *args: change(good(*args)))}


def with_logprobs(whole: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return ids, whole.gather(1, ids)


# Which spans are scored, and how often.


def tells_spans_by_their_tokens(good: Any, spans: Sequence[Span], **how: Any) -> Results:
    where = {span: index for index, span in enumerate(spans)}
    found = good(list(where), **how | {"seeds": how["seeds"][: len(where)]})
    yield from ((where[span], one) for span, (_, one) in zip(where, found, strict=True))


def counts_its_results(good: Any, spans: Sequence[Span], **how: Any) -> Results:
    order = sorted(range(len(spans)), key=lambda index: len(spans[index].tokens))
    seeds = [how["seeds"][index] for index in order]
    return good([spans[index] for index in order], **how | {"seeds": seeds})


def tells_spans_by_name(good: Any, spans: Sequence[Span], **how: Any) -> Results:
    first = {span.name: span for span in reversed(spans)}
    return good([replace(first[each.name], temperature=each.temperature) for each in spans], **how)


def sorts_in_place(good: Any, spans: list[Span], **how: Any) -> Results:
    where = {id(span): index for index, span in enumerate(spans)}
    seeds = dict(zip(map(id, spans), how["seeds"], strict=True))
    spans.sort(key=lambda span: len(span.tokens))
    found = good(spans, **how | {"seeds": [seeds[id(span)] for span in spans]})
    return ((where[id(spans[index])], one) for index, one in found)


def pads_without_a_mask(good: Any, spans: Sequence[Span], **how: Any) -> Results:
    longest = max(len(span.tokens) for span in spans)
    padding = [(0,) * (longest - len(span.tokens)) for span in spans]
    padded = zip(spans, padding, strict=True)
    return good([replace(each, tokens=zeros + each.tokens) for each, zeros in padded], **how)


def seeds_by_place(good: Any, spans: Sequence[Span], **how: Any) -> Results:
    return good(spans, **how | {"seeds": range(len(spans))})


def ignores_draws(good: Any, spans: Sequence[Span], **how: Any) -> Results:
    return good(spans, **how | {"draws": 0})


# Which tokens are read.


def renders_anew(good: Any, model: Model, span: Span) -> Tensor:
    """The conversation without its system prompt."""
    (stop,) = model.renderer.stop_ids
    default = model.renderer.prompt((Message("user", "?"),))
    tokens = default[: default.index(stop)] + span.tokens[span.tokens.index(stop) :]
    return good(model, replace(span, tokens=tokens))


def caches_by_prompt(cache: dict[tuple[int, ...], Tensor]) -> Callable[..., Tensor]:
    def whole(good: Any, model: Model, span: Span) -> Tensor:
        return cache.setdefault(span.tokens[: -span.n_response], good(model, span))

    return whole


# The top K and the draws.


def keeps_the_responses_token(whole: Tensor, span: Span, ids: Tensor) -> tuple[Tensor, Tensor]:
    """As a service does that lists the prompt's own token in any case."""
    own = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
    with_own = torch.cat([ids[:, :-1], own], dim=1)
    kept = torch.where((ids == own).any(dim=1, keepdim=True), ids, with_own)
    return with_logprobs(whole, kept)


def repeats_a_token(whole: Tensor, span: Span, ids: Tensor) -> tuple[Tensor, Tensor]:
    return with_logprobs(whole, ids[:, [0, 1, 2, 3, 4, 4][: ids.shape[1]]])


def fills_with_minus_infinity(whole: Tensor, span: Span, ids: Tensor) -> tuple[Tensor, Tensor]:
    return ids, whole.gather(1, ids).where(torch.arange(ids.shape[1]) < 5, -torch.inf)


def logits(good: Any, model: Model, span: Span) -> Tensor:
    return good(model, span) + torch.arange(span.n_response).unsqueeze(1) % 3 + 5


def at_the_responses_temperature(good: Any, whole: Tensor, span: Span, *args: Any) -> Any:
    return good((whole / span.temperature).log_softmax(dim=1), span, *args)


def samples(whole: Tensor, span: Span, ids: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sampled = torch.multinomial(whole.exp(), ids.shape[1], generator=generator)
    logprobs = whole.gather(1, sampled).sort(dim=1, descending=True)
    return sampled.gather(1, logprobs.indices), logprobs.values


def tail_mass(whole: Tensor, ids: Tensor) -> Tensor:
    return -torch.expm1(whole.gather(1, ids).logsumexp(dim=1, keepdim=True))


def logprobs_given_the_tail(good: Any, whole: Tensor, ids: Tensor, *args: Any) -> Draws:
    drawn, logprobs, importance_weights = good(whole, ids, *args)
    return drawn, logprobs - tail_mass(whole, ids).log(), importance_weights


def weights_of_the_tail(good: Any, whole: Tensor, ids: Tensor, *args: Any) -> Draws:
    drawn, logprobs, importance_weights = good(whole, ids, *args)
    return mask_top_k_draws(ids, drawn, logprobs, importance_weights * tail_mass(whole, ids))


def from_all(self: Good, whole: Tensor, ids: Tensor) -> Tensor:
    """Draws from the whole vocabulary."""
    return whole.exp()


def hot(self: Good, whole: Tensor, ids: Tensor, span: Span) -> Tensor:
    """Draws at the temperature that the response was sampled at."""
    return self.tail(whole / span.temperature, ids)


def unseeded(self: Good, seed: int) -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator


# What happens beside.


def swallows_errors(good: Any, *spans: Any, **how: Any) -> Iterator[Any]:
    try:
        yield from good(*spans, **how)
    except BakeError:
        return


def hides_the_reason(good: Any, *spans: Any, **how: Any) -> Iterator[Any]:
    try:
        yield from good(*spans, **how)
    except BakeError as error:
        raise BakeError("the teacher could not be asked") from error


def first(action: Callable[..., object]) -> Mapping[str, Any]:
    """Does something before it scores; `action` is given the options of `score`."""

    return score(lambda good, spans, **how: (action(how), good(spans, **how))[1])


def logs_its_key(how: object) -> None:
    logging.getLogger("toy").debug("Bearer %s", os.environ[KEY])


def shows_a_refused_key(how: object) -> None:
    if os.environ[KEY] != VALUE:
        raise BakeError(f"{KEY}: the service refuses {os.environ[KEY]}")


ONCE = "test_each_span_is_scored_once"
ROWS = "test_each_response_token_has_a_row"
TYPES = "test_the_tensors_have_the_documented_types"
K_TOKENS = "test_each_row_has_k_tokens"
ORDER = "test_each_row_has_distinct_tokens_most_likely_first"
FINITE = "test_the_numbers_are_finite_and_no_log_probability_is_positive"
NATS = "test_the_log_probabilities_are_the_models_in_nats"
LIKELIER = "test_no_token_left_out_is_likelier"
SYSTEM = "test_it_reads_the_system_prompt"
ALONE = "test_a_result_does_not_depend_on_the_other_spans"
UNBIASED = "test_the_draws_estimate_the_tail_without_bias"
INSIDE = "test_a_draw_inside_the_top_k_has_weight_0"
ERROR = "test_an_error_of_the_base_model_is_not_swallowed"
DRAWS = "test_it_gives_the_draws_that_it_says"

INDEX = "test_each_result_comes_with_its_spans_index"
LONG = "test_it_reads_a_long_prompt_from_its_beginning"
CONTEXT = "test_a_span_beyond_the_context_is_not_cut"
GLOBAL = "test_the_global_random_state_is_unchanged"
FLAGS = "test_the_flags_are_strict_enough"
OPENS = "test_it_opens_the_base_model_as_the_flag_says"

OTHER_SEED = "test_another_seed_gives_other_draws"
SAYS = "test_it_says_whether_it_draws"
NONE = "test_it_draws_nothing_where_draws_is_0"
DRAWN = "test_draws_have_the_models_log_probabilities"
REFUSES = "test_it_refuses_draws_that_it_cannot_make"

NO_TAIL, OWN = {"samples_tail": False}, {"uses_base_model": False}
FAULTS = (
    Fault("leaves_out_the_last", ONCE, results(lambda pairs: pairs[:-1])),
    Fault("scores_twice", ONCE, results(lambda pairs: pairs * 2)),
    Fault("counts_from_one", ONCE, results(lambda pairs: [(i + 1, one) for i, one in pairs])),
    Fault("tells_spans_by_their_tokens", ONCE, score(tells_spans_by_their_tokens)),
    Fault("counts_its_results", INDEX, score(counts_its_results)),
    Fault("transposed", ROWS, tensors(torch.t)),
    Fault("drops_the_last_token", ROWS, tensors(lambda part: part[:-1])),
    Fault("squeezed", ROWS, tensors(torch.squeeze)),
    Fault("int32", TYPES, tensors(lambda part: part if part.is_floating_point() else part.int())),
    Fault("float64", TYPES, numbers(torch.Tensor.double)),
    Fault("one_more_than_k", K_TOKENS, {"top": around(lambda good, w, s, k: good(w, s, k + 1))}),
    Fault("at_least_five", K_TOKENS, {"top": around(lambda good, w, s, k: good(w, s, max(k, 5)))}),
    Fault("in_the_order_of_ids", ORDER, top(lambda w, s, ids: with_logprobs(w, ids.sort().values))),
    Fault("repeats_a_token_to_fill_a_row", ORDER, top(repeats_a_token)),
    Fault("fills_a_row_with_minus_infinity", FINITE, top(fills_with_minus_infinity)),
    Fault("negative_log_probabilities", FINITE, numbers(torch.neg)),
    Fault("bits", NATS, numbers(lambda logprobs: logprobs / math.log(2))),
    Fault("probabilities", NATS, numbers(torch.exp)),
    Fault("half_precision", NATS, numbers(lambda logprobs: logprobs.bfloat16().float())),
    Fault("logits", NATS, {"whole": around(logits)}),
    Fault(
        "renormalised_over_k", NATS, top(lambda w, s, ids: (ids, w.gather(1, ids).log_softmax(1)))
    ),
    Fault("the_next_positions", NATS, reads(lambda tokens: (*tokens, 0))),
    Fault("the_positions_before", NATS, reads(lambda tokens: tokens[:-1])),
    Fault(
        "at_the_responses_temperature",
        "test_the_distribution_is_at_temperature_1",
        {"result": around(at_the_responses_temperature)},
    ),
    Fault("samples_in_place_of_the_top_k", LIKELIER, top(samples)),
    Fault("keeps_the_responses_token", LIKELIER, top(keeps_the_responses_token)),
    Fault("scores_the_student", SYSTEM, {"whole": around(renders_anew)}),
    Fault("tells_spans_by_name", SYSTEM, score(tells_spans_by_name)),
    Fault(
        "caches_by_prompt", "test_it_reads_the_response", {"whole": around(caches_by_prompt({}))}
    ),
    Fault("cuts_long_prompts", LONG, reads(lambda tokens: tokens[-512:])),
    Fault("cuts_at_the_context", CONTEXT, reads(lambda tokens: tokens[-2048:])),
    Fault("pads_without_a_mask", ALONE, score(pads_without_a_mask)),
    Fault("seeds_by_place", ALONE, score(seeds_by_place)),
    Fault("sorts_in_place", "test_the_input_is_unchanged", score(sorts_in_place)),
    Fault("unseeded", "test_the_same_spans_give_the_same_result", {"generator": unseeded}),
    Fault("one_seed_for_all", OTHER_SEED, {"generator": around(lambda good, seed: good(0))}),
    Fault(
        "seeds_the_global_generator", GLOBAL, {"generator": lambda self, s: torch.manual_seed(s)}
    ),
    Fault("draws_where_none_is_requested", NONE, drawn(draws=lambda draws: max(draws, 1))),
    Fault("one_draw_for_all", DRAWS, drawn(draws=lambda draws: min(draws, 1))),
    Fault("says_that_it_draws", SAYS, {"samples_tail": True}, NO_TAIL, NoTail),
    Fault("log_probabilities_given_the_tail", DRAWN, {"drawn": around(logprobs_given_the_tail)}),
    Fault("counts_the_top_k_twice", INSIDE, {"tail": from_all}),
    Fault(
        "weights_of_the_tail", UNBIASED, {"tail": from_all, "drawn": around(weights_of_the_tail)}
    ),
    Fault("every_weight_is_1", UNBIASED, weights(lambda p: torch.ones_like(p) / p.shape[1])),
    Fault("not_divided_by_m", UNBIASED, weights(lambda p: p / p.shape[1])),
    Fault("divided_by_m_twice", UNBIASED, weights(lambda p: p * p.shape[1])),
    Fault("without_replacement", UNBIASED, {"replacement": False}),
    Fault("draws_at_the_responses_temperature", UNBIASED, {"probabilities": hot}),
    Fault("ignores_draws", REFUSES, score(ignores_draws), NO_TAIL, NoTail),
    Fault("swallows_errors", ERROR, score(swallows_errors)),
    Fault("hides_the_reason", ERROR, score(hides_the_reason)),
    Fault("prints", "test_it_prints_nothing", first(lambda how: print("scoring"))),  # noqa: T201
    Fault("logs_its_key", "test_no_key_is_seen", first(logs_its_key)),
    Fault("shows_a_refused_key", "test_a_refused_key_is_not_seen", first(shows_a_refused_key)),
    Fault("opens_in_secret", OPENS, first(lambda how: how["open_model"]()), OWN, OwnModel),
    Fault("coarse", FLAGS, flags={"tolerance": 10.0}),
    Fault("too_few_columns", FLAGS, flags={"top_k": 2}),
)

globals().update(suites_for(TeacherSuite, "teacher", Good, FAULTS, keys=(KEY,)))
TestNoTail = suite_for(TeacherSuite, "teacher", NoTail, **NO_TAIL)
TestOwnModel = suite_for(TeacherSuite, "teacher", OwnModel, **OWN)
