"""The top-K part of the conformance suite for backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.common import (
    BackendTests,
    known_tokens,
    prompts,
    response_spans,
    score,
    some_seeds,
    top_k,
)
from promptbake.types import Span, TeacherLogprobs

K = 3
DRAWS = 64
MAX_TOKENS = 12


class TopKTests(BackendTests):
    """Of `model.top_k`."""

    def test_the_top_k_are_the_most_likely_tokens(self, base: Model) -> None:
        spans = response_spans(base)
        results = top_k(base, spans, K)
        assert sorted(results) == list(range(len(spans))), f"{sorted(results)} of {len(spans)}"
        for index, span in enumerate(spans):
            top = results[index]
            assert top.ids.shape == top.logprobs.shape == (span.n_response, K), (
                f"ids {tuple(top.ids.shape)} and log-probabilities {tuple(top.logprobs.shape)} "
                f"for k = {K} at {span.n_response} positions"
            )
            assert not top.ids.is_floating_point(), f"ids of type {top.ids.dtype}"
            assert bool((top.logprobs.diff(dim=1) <= 0).all()), (
                "the top K are out of order: the most likely one comes first"
            )
            assert bool((top.ids.sort(dim=1).values.diff(dim=1) > 0).all()), (
                "a token is twice in a top K"
            )
            (scored,) = score(base, [span], [top.ids])
            self._check_same(
                top.logprobs,
                scored,
                f"`top_k` of span {index} among others, and `logprobs` of it alone: look at the "
                "index that comes with a result",
            )
            best = _best_outside(base, span, top)
            assert bool((best <= scored[:, -1] + self.tolerance).all()), (
                "a token outside the top K is likelier than the last one in it"
            )

    def test_the_draws_stand_for_what_is_outside_the_top_k(
        self, backend: Backend, base: Model
    ) -> None:
        backend.new_lora(base, rank=1, seed=0).preflight(k=K, draws=DRAWS)  # as the core does
        spans = _own_responses(base)
        results = top_k(base, spans, K, DRAWS)
        for index, span in enumerate(spans):
            _check_draws(results[index], span)
        subsets: dict[str, Callable[[Tensor], Tensor]] = {"all": lambda ids: ids >= 0}
        if base.full_vocabulary:
            subsets["the even"] = lambda ids: ids % 2 == 0
        for name, includes in subsets.items():
            drawn = expected = variance = 0.0
            for index, span in enumerate(spans):
                terms = _terms(results[index], includes)
                drawn += terms.sum().item()
                variance += _variance(terms)
                expected += _tail(base, span, results[index], includes)
            room = 5 * variance**0.5 + 0.02 * expected + self.tolerance
            assert abs(drawn - expected) <= room, (
                f"over {name} tokens the draws' probabilities times their importance weights sum "
                f"to {drawn:.2f}, and those outside the top K have {expected:.2f}: the weight is "
                "1 / (M * the probability that the token was drawn with), and 0 in the top K"
            )

    def test_what_is_scored_while_sampling_is_what_is_scored_afterwards(self, base: Model) -> None:
        """Of a model that offers `sample_with_top_k`; for any other there is nothing to compare."""
        scoring = getattr(base, "sample_with_top_k", None)
        if scoring is None:
            return
        before = prompts(base) * ((base.sample_batch or 1) + 1)  # more than one batch
        seeds = some_seeds(len(before))
        how: dict[str, Any] = {
            "max_tokens": MAX_TOKENS,
            "temperatures": [0.7] * len(before),
            "seeds": seeds,
        }
        scored = {
            row: each for row, *each in scoring(before, **how, k=K, draws=2, draw_seeds=seeds)
        }
        plain = dict(base.sample(before, **how))
        assert {row: completion for row, (completion, _) in scored.items()} == plain, (
            "`sample_with_top_k` gives other responses than `sample`"
        )
        (end, *_) = base.renderer.stop_ids
        spans = []
        for row, prompt in enumerate(before):
            response = plain[row].tokens + (end,) * plain[row].complete
            spans.append(Span(prompt + response, len(response)))
        afterwards = dict(base.top_k(spans, k=K, draws=2, seeds=seeds))
        for row, (_, scores) in scored.items():
            for name in ("ids", "logprobs", "drawn_ids", "drawn_logprobs"):
                tensor = getattr(scores, name)
                other = getattr(afterwards[row], name)
                self._check_same(tensor.float(), other.float(), f"{name} of row {row}, both ways")

    def test_each_spans_draws_have_their_own_seed(self, base: Model) -> None:
        span = _own_responses(base)[0]
        one, other = some_seeds(2)
        results = top_k(base, [span] * 3, K, DRAWS, [one, other, one])
        alone = top_k(base, [span], K, DRAWS, [other])[0]
        same = _agreement(results[0], results[2])
        assert same > 0.9, f"by one seed, {same:.0%} of the draws for one span are the same"
        same = _agreement(results[1], alone)
        assert same > 0.9, (
            f"of a span's draws, {same:.0%} are the same alone and among others: derive them from "
            "its own seed"
        )
        assert _agreement(results[0], results[1]) < 0.9, "another seed gives the same draws"


def _own_responses(model: Model) -> list[Span]:
    """What the model itself says."""
    before = prompts(model)
    responses = model.sample(
        before,
        max_tokens=MAX_TOKENS,
        temperatures=[1.0] * len(before),
        seeds=some_seeds(len(before)),
    )
    return [
        Span(before[index] + response.tokens, len(response.tokens), f"response {index}")
        for index, response in sorted(responses, key=lambda each: each[0])
        if response.tokens
    ]


def _check_draws(result: TeacherLogprobs, span: Span) -> None:
    weights = result.drawn_importance_weights
    shape = tuple(result.drawn_ids.shape)
    assert shape == tuple(result.drawn_logprobs.shape) == tuple(weights.shape), (
        f"{shape} ids, {tuple(result.drawn_logprobs.shape)} log-probabilities and "
        f"{tuple(weights.shape)} importance weights of the draws: [N, M] each"
    )
    assert len(shape) == 2, f"draws of the shape {shape}: [N, M]"
    assert shape[0] == span.n_response, f"{shape[0]} rows for {span.n_response} positions"
    assert shape[1] == DRAWS, f"{shape[1]} draws at a position, of {DRAWS}"
    assert bool((weights >= 0).all()), "a draw has an importance weight below 0"
    inside = (result.drawn_ids.unsqueeze(2) == result.ids.unsqueeze(1)).any(dim=2)
    assert bool((weights[inside] == 0).all()), (
        "a token of the top K counts among the draws too: its importance weight is 0 there"
    )


def _terms(result: TeacherLogprobs, includes: Callable[[Tensor], Tensor]) -> Tensor:
    """What each draw adds to the sum of the probabilities, [N, M]."""
    each = result.drawn_importance_weights.double() * result.drawn_logprobs.double().exp()
    return each * includes(result.drawn_ids)


def _variance(terms: Tensor) -> float:
    """Of the sum of what the draws add, [N, M]."""
    return (terms.shape[1] * terms.var(dim=1)).sum().item()


def _tail(
    model: Model, span: Span, result: TeacherLogprobs, includes: Callable[[Tensor], Tensor]
) -> float:
    """The probability outside the top K, summed over the positions."""
    if not model.full_vocabulary:
        return (1 - result.logprobs.double().exp().sum(dim=1)).sum().item()
    (whole,) = score(model, [span])
    outside = whole.double().exp().scatter(1, result.ids, 0.0)
    return (outside * includes(torch.arange(whole.shape[1]))).sum().item()


def _best_outside(model: Model, span: Span, top: TeacherLogprobs) -> Tensor:
    """Log-probability of the likeliest known token outside the top K, [N]."""
    others = torch.tensor([known_tokens(model)] * span.n_response)
    (scored,) = score(model, [span], [others])
    inside = (others.unsqueeze(2) == top.ids.unsqueeze(1)).any(dim=2)
    return scored.masked_fill(inside, -torch.inf).max(dim=1).values


def _agreement(one: TeacherLogprobs, other: TeacherLogprobs) -> float:
    """The share of the draws that are the same."""
    return (one.drawn_ids == other.drawn_ids).double().mean().item()
