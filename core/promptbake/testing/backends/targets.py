"""The top-K part of the conformance suite for backends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from promptbake.interfaces import Backend, Model
from promptbake.testing.backends.common import (
    BackendTests,
    ask,
    known_tokens,
    prompts,
    response_spans,
    some_seeds,
    tops,
)
from promptbake.types import Span, TeacherLogprobs

K = 3
DRAWS = 64
SAID = 12  # tokens of a response


class TargetTests(BackendTests):
    """Of `model.top_k`."""

    def test_the_top_k_are_the_most_likely_tokens(self, base: Model) -> None:
        spans = response_spans(base)
        answers = tops(base, spans, K)
        assert sorted(answers) == list(range(len(spans))), (
            f"results for the spans {sorted(answers)}, of {len(spans)}"
        )
        for index, span in enumerate(spans):
            found = answers[index]
            assert found.ids.shape == found.logprobs.shape == (span.n_response, K), (
                f"ids {tuple(found.ids.shape)} and log-probabilities "
                f"{tuple(found.logprobs.shape)} for k = {K} at {span.n_response} positions"
            )
            assert not found.ids.is_floating_point(), f"ids of type {found.ids.dtype}"
            assert bool((found.logprobs.diff(dim=1) <= 0).all()), (
                "the top K are out of order: the most likely one comes first"
            )
            assert bool((found.ids.sort(dim=1).values.diff(dim=1) > 0).all()), (
                "a token is twice in the top K of a position"
            )
            (scored,) = ask(base, [span], [found.ids])
            self._check_same(found.logprobs, scored, "`top_k` and `logprobs` disagree")
            assert bool(
                (_best_outside(base, span, found) <= scored[:, -1] + self.tolerance).all()
            ), "a token outside the top K is likelier than the last one in it"

    def test_a_spans_top_k_do_not_depend_on_its_company(self, base: Model) -> None:
        spans = response_spans(base)
        together = tops(base, spans, K)
        for index, span in enumerate(spans):
            self._check_same(
                together[index].logprobs,
                tops(base, [span], K)[0].logprobs,
                f"span {index} in company; look at the index that comes with a result",
            )

    def test_the_draws_stand_for_what_is_outside_the_top_k(
        self, backend: Backend, base: Model
    ) -> None:
        backend.new_lora(base, rank=1, seed=0).preflight(k=K, draws=DRAWS)  # as the core does
        spans = _own_responses(base)
        answers = tops(base, spans, K, DRAWS)
        for index, span in enumerate(spans):
            _check_draws(answers[index], span)
        kinds: dict[str, Callable[[Tensor], Tensor]] = {"all": lambda ids: ids >= 0}
        if base.full_vocabulary:
            kinds["the even"] = lambda ids: ids % 2 == 0
        for kind, counted in kinds.items():
            drawn = expected = variance = 0.0
            for index, span in enumerate(spans):
                sums = _drawn(answers[index], counted)
                drawn += sums.sum().item()
                variance += _variance(sums)
                expected += _tail(base, span, answers[index], counted)
            room = 5 * variance**0.5 + 0.02 * expected + self.tolerance
            assert abs(drawn - expected) <= room, (
                f"over {kind} tokens the draws' probabilities times their measure sum to "
                f"{drawn:.2f}, and those outside the top K have {expected:.2f}: a draw's measure "
                "is 1 / (M * the probability that it was drawn with), and 0 for one that is in "
                "the top K"
            )

    def test_each_spans_draws_have_their_own_seed(self, base: Model) -> None:
        spans = [_own_responses(base)[0]] * 3
        one, other = some_seeds(2)
        found = tops(base, spans, K, DRAWS, [one, other, one])
        alone = tops(base, spans[:1], K, DRAWS, [other])[0]
        if alone.drawn_ids.shape[1] < DRAWS:
            pytest.skip("nothing is drawn: the response stands for the tail")
        same = _agreement(found[0], found[2])
        assert same > 0.9, (
            f"of the draws for the same span with the same seed, {same:.0%} are the same"
        )
        assert _agreement(found[0], found[1]) < 0.9, "another seed gives the same draws"
        same = _agreement(found[1], alone)
        assert same > 0.9, (
            f"of a span's draws, {same:.0%} are the same in company and alone: derive them from "
            "its own seed"
        )


def _own_responses(model: Model) -> list[Span]:
    """What the model itself says, so that its own tokens may stand for its tail."""
    asked = prompts(model)
    said = model.sample(
        asked, max_tokens=SAID, temperatures=[1.0] * len(asked), seeds=some_seeds(len(asked))
    )
    return [
        Span(asked[index] + found.tokens, len(found.tokens), f"response {index}")
        for index, found in sorted(said, key=lambda pair: pair[0])
        if found.tokens
    ]


def _check_draws(found: TeacherLogprobs, span: Span) -> None:
    shapes = {
        tuple(part.shape)
        for part in (found.drawn_ids, found.drawn_logprobs, found.drawn_importance_weights)
    }
    assert len(shapes) == 1, f"draws of the shapes {sorted(shapes)}: [N, M] each"
    (shape,) = shapes
    assert len(shape) == 2, f"draws of the shape {shape}: [N, M]"
    assert shape[0] == span.n_response, f"{shape[0]} rows for {span.n_response} positions"
    assert 0 < shape[1] <= DRAWS, f"{shape[1]} draws at a position, of {DRAWS}"
    assert bool((found.drawn_importance_weights >= 0).all()), "a draw has a measure below 0"
    inside = (found.drawn_ids.unsqueeze(2) == found.ids.unsqueeze(1)).any(dim=2)
    assert bool((found.drawn_importance_weights[inside] == 0).all()), (
        "a token that is in the top K counts among the draws too: its measure is 0 there"
    )


def _drawn(found: TeacherLogprobs, counted: Callable[[Tensor], Tensor]) -> Tensor:
    """What each draw adds to the sum of the probabilities, [N, M]."""
    each = found.drawn_importance_weights.double() * found.drawn_logprobs.double().exp()
    return each * counted(found.drawn_ids)


def _variance(each: Tensor) -> float:
    """Of the sum of what the draws add, [N, M]."""
    if each.shape[1] == 1:  # the response stands for the tail
        return each.square().sum().item()
    return (each.shape[1] * each.var(dim=1)).sum().item()


def _tail(
    model: Model, span: Span, found: TeacherLogprobs, counted: Callable[[Tensor], Tensor]
) -> float:
    """The probability outside the top K, summed over the positions."""
    if not model.full_vocabulary:
        return (1 - found.logprobs.double().exp().sum(dim=1)).sum().item()
    (whole,) = (logprobs.cpu() for logprobs in model.logprobs([span]))
    outside = whole.double().exp().scatter(1, found.ids, 0.0)
    return (outside * counted(torch.arange(whole.shape[1]))).sum().item()


def _best_outside(model: Model, span: Span, found: TeacherLogprobs) -> Tensor:
    """Log-probability of the likeliest known token outside the top K, [N]."""
    others = torch.tensor([known_tokens(model)] * span.n_response)
    (scored,) = ask(model, [span], [others])
    inside = (others.unsqueeze(2) == found.ids.unsqueeze(1)).any(dim=2)
    return scored.masked_fill(inside, -torch.inf).max(dim=1).values


def _agreement(one: TeacherLogprobs, other: TeacherLogprobs) -> float:
    """The share of the draws that are the same."""
    return (one.drawn_ids == other.drawn_ids).double().mean().item()
