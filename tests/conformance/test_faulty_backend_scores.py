"""Faulty scores, and a faulty top K, of a backend's model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from faulty_suites import Fault, suite_for, suites_for
from toy_backend import Model, SamplesWell, Toy, ToySuite, after, backend_with, faults, passing

from promptbake.types import Span, TeacherLogprobs

COUNT = itertools.count()


class Named(Model):
    """Scores named tokens alone."""

    full_vocabulary = False

    def logprobs(self, spans: Any, ids: Any = None) -> Any:
        if ids is None:
            raise ValueError("named tokens alone")
        return super().logprobs(spans, ids)

    def top_k(self, *arguments: Any, **options: Any) -> Any:
        return Model().with_lora(self.delta).top_k(*arguments, **options)


# --- scoring


def rows(change: Callable[[Any], Any]) -> dict[str, Any]:
    """Each span's log-probabilities are others."""
    return {"logprobs": after(Model.logprobs, lambda self, good: map(change, good))}


def of_spans(change: Callable[[Span], Span]) -> dict[str, Any]:
    """Scores other spans."""

    def logprobs(self: Any, spans: Any, ids: Any = None) -> Any:
        return Model.logprobs(self, list(map(change, spans)), ids)

    return {"logprobs": logprobs}


def of_ids(change: Callable[[Any], Any]) -> dict[str, Any]:
    """Scores other ids."""

    def logprobs(self: Any, spans: Any, ids: Any = None) -> Any:
        return Model.logprobs(self, spans, ids and list(map(change, ids)))

    return {"logprobs": logprobs}


def score_the_prompt_too(self: Any, spans: Any, ids: Any = None) -> Iterator[Any]:
    for span, good in zip(spans, Model.logprobs(self, spans, ids), strict=True):
        yield torch.cat([good.new_zeros(len(span.tokens) - len(good), good.shape[1]), good])


def score_the_shortest_first(self: Any, spans: Any, ids: Any = None) -> Any:
    order = sorted(range(len(spans)), key=lambda index: len(spans[index].tokens))
    return Model.logprobs(self, [spans[i] for i in order], ids and [ids[i] for i in order])


def pad_without_a_mask(self: Any, spans: Any, ids: Any = None) -> Any:
    longest = max((len(span.tokens) for span in spans), default=0)
    padded = [replace(s, tokens=(0,) * (longest - len(s.tokens)) + s.tokens) for s in spans]
    return Model.logprobs(self, padded, ids)


def take_the_first_rows(self: Any, spans: Any, ids: Any = None) -> Iterator[Any]:
    """Those behind the first assistant's turn that it sees, whatever `n_response` says."""
    for index, span in enumerate(spans):
        n = span.n_response
        (whole,) = Model.logprobs(
            self, [replace(span, n_response=min(2 * n, len(span.tokens) - 1))]
        )
        whole = whole[:n] if n < 20 else whole[-n:]
        yield whole if ids is None else whole.gather(1, ids[index])


def raise_an_error_of_its_own(self: Any, tokens: int) -> None:
    if tokens > self.context_tokens:
        raise IndexError("index out of range in self")


ROOM = Model.context_tokens
BITS, LOGITS = rows(lambda row: row / math.log(2)), rows(lambda row: row + 3.0)
FREQUENT = "test_tokens_are_as_frequent_as_they_are_probable"
NAMED = "test_named_tokens_are_scored_at_each_response_position"
InBits = type("InBits", (Model,), BITS)
SCORING = [
    Fault("has_another_name", "test_it_says_what_it_is", {"name": "a"}, {"takes_any_name": False}),
    *faults(
        "test_it_says_what_it_is",
        has_one_warning={"warnings": "There is much to say."},
        does_not_know_its_context={"context_tokens": 0},
    ),
    *faults("test_probabilities_are_normalised", scores_in_bits=BITS, gives_logits=LOGITS),
    *faults(
        NAMED,
        transposes=rows(lambda row: row.T),
        scores_the_prompt_too={"logprobs": score_the_prompt_too},
    ),
    Fault("gives_logits_of_named_tokens", NAMED, LOGITS, base=Named),
    *faults(FREQUENT, scores_at_a_temperature=rows(lambda row: (row / 2).log_softmax(dim=1))),
    Fault("scores_named_tokens_in_bits", FREQUENT, {"full_vocabulary": False}, base=InBits),
    *faults(
        "test_a_position_is_scored_by_what_stands_before_it",
        scores_a_token_late=of_spans(lambda span: replace(span, tokens=(*span.tokens, 0))),
        scores_a_token_early=of_spans(lambda span: replace(span, tokens=span.tokens[:-1])),
    ),
    *faults(
        "test_spans_are_scored_in_their_order_whatever_the_others_are",
        scores_the_shortest_first={"logprobs": score_the_shortest_first},
        pads_without_a_mask={"logprobs": pad_without_a_mask},
    ),
    *faults(
        "test_each_position_is_scored_for_its_own_ids",
        gathers_by_the_first_row=of_ids(lambda ids: ids[:1].expand_as(ids)),
        sorts_the_ids=of_ids(lambda ids: ids.sort(dim=1).values),
    ),
    *faults(
        "test_the_rows_are_the_last_ones_of_the_span",
        takes_the_first_rows={"logprobs": take_the_first_rows},
    ),
    *faults(
        "test_a_sequence_longer_than_the_context_is_refused",
        cuts_long_spans=of_spans(lambda span: replace(span, tokens=span.tokens[-ROOM:])),
        cuts_long_prompts={
            "sample": lambda self, prompts, **how: Model.sample(
                self, [each[how["max_tokens"] - ROOM :] for each in prompts], **how
            )
        },
        cuts_long_prompts_of_streams={
            "stream": lambda self, prompt, **how: Model.stream(
                self, prompt[how["max_tokens"] - ROOM :], **how
            ),
            "sample": SamplesWell.sample,
        },
        has_an_error_of_its_own={"_check_length": raise_an_error_of_its_own},
    ),
    *faults(
        "test_no_rows_give_no_results",
        fails_without_rows={
            "sample": lambda self, prompts, **how: (
                max(prompts) and Model.sample(self, prompts, **how)
            )
        },
    ),
]

# --- the top K and the draws


def top(change: Callable[..., Any]) -> dict[str, Any]:
    """Each result is another: `change` has the model, the good result and its span."""

    def top_k(self: Any, spans: Any, **how: Any) -> Iterator[Any]:
        for index, good in Model.top_k(self, spans, **how):
            yield index, change(self, good, spans[index])

    return {"top_k": top_k}


def weighing(change: Callable[..., Any]) -> dict[str, Any]:
    """Draws have other importance weights: `change` has the good ones, the draws', and M."""

    def reweighed(self: Any, good: TeacherLogprobs, span: Span) -> TeacherLogprobs:
        m = max(good.drawn_ids.shape[1], 1)
        weights = change(good.drawn_importance_weights, good.drawn_logprobs, m)
        return replace(good, drawn_importance_weights=weights)

    return top(reweighed)


def draw_from_the_whole_vocabulary(self: Any, good: TeacherLogprobs, span: Span) -> Any:
    """And take the top K among the draws for the tail."""
    (whole,) = self.logprobs([span])
    m, generator = max(good.drawn_ids.shape[1], 1), torch.Generator().manual_seed(0)
    ids = whole.exp().multinomial(m, replacement=True, generator=generator)
    logprobs = whole.gather(1, ids)
    return TeacherLogprobs(good.ids, good.logprobs, ids, logprobs, (-logprobs).exp() / m)


def draw_the_likeliest(self: Any, good: TeacherLogprobs, span: Span) -> Any:
    """The tail's likeliest token, again and again."""
    (whole,) = self.logprobs([span])
    tail = whole.scatter(1, good.ids, -torch.inf)
    ids = tail.argmax(dim=1, keepdim=True).expand_as(good.drawn_ids)
    logprobs, m = whole.gather(1, ids), max(ids.shape[1], 1)
    weights = tail.exp().sum(dim=1, keepdim=True) / (m * logprobs.exp())
    return TeacherLogprobs(good.ids, good.logprobs, ids, logprobs, weights)


TOP_K = [
    *faults(
        "test_the_top_k_are_the_most_likely_tokens",
        gives_the_least_likely_first=top(
            lambda self, good, span: replace(
                good, ids=good.ids.flip(1), logprobs=good.logprobs.flip(1)
            )
        ),
        leaves_the_likeliest_out={
            "top_k": after(
                passing(Model.top_k, k=lambda k: k + 1),
                lambda self, good: (
                    (index, replace(each, ids=each.ids[:, 1:], logprobs=each.logprobs[:, 1:]))
                    for index, each in good
                ),
            )
        },
        normalises_the_top_k=top(
            lambda self, good, span: replace(good, logprobs=good.logprobs.log_softmax(dim=1))
        ),
    ),
    *faults(
        "test_a_spans_top_k_do_not_depend_on_the_others",
        answers_in_reverse={
            "top_k": lambda self, spans, **how: (
                (len(spans) - 1 - index, good) for index, good in Model.top_k(self, spans, **how)
            )
        },
    ),
    *faults(
        "test_the_draws_stand_for_what_is_outside_the_top_k",
        draws_from_the_whole_vocabulary=top(draw_from_the_whole_vocabulary),
        draws_the_likeliest=top(draw_the_likeliest),
        weighs_each_draw_as_the_only_one=weighing(lambda weights, logprobs, m: weights * m),
        forgets_the_tails_probability=weighing(lambda weights, logprobs, m: (-logprobs).exp() / m),
    ),
    *faults(
        "test_each_spans_draws_have_their_own_seed",
        draws_from_a_global_generator={
            "top_k": passing(Model.top_k, seeds=lambda seeds: [next(COUNT) for _ in seeds])
        },
        seeds_draws_by_their_place={
            "top_k": passing(
                Model.top_k, seeds=lambda seeds: [each + 100 * i for i, each in enumerate(seeds)]
            )
        },
    ),
]

FAULTS = [replace(fault, base=fault.base or Model) for fault in SCORING + TOP_K]

globals().update(suites_for(ToySuite, "backend", Toy, FAULTS, backend_with))
TestGood = suite_for(ToySuite, "backend", lambda: backend_with(Named))
