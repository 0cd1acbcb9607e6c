"""The part of the suite for teachers that is about what stands for the tail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptbake.errors import BakeError
from promptbake.testing.teachers.answers import bias, changed, inside, refusal
from promptbake.testing.teachers.diagnosis import at, symptom
from promptbake.testing.teachers.logprobs import NumberTests
from promptbake.testing.teachers.spans import Reference, mixed
from promptbake.testing.teachers.teacher_client import (
    DRAWS,
    TEMPERATURES,
    Interview,
    seeds_of,
)
from promptbake.types import Span

REPEATS = 32  # times that one span is asked about, with other seeds
ROUGH = 0.25  # nats by which the weight of a response that was not sampled at 1 may be off


class TailTests(NumberTests):
    """Of the draws."""

    def test_it_draws_nothing_where_nothing_is_asked_for(
        self, ask: Interview, spans: list[Span]
    ) -> None:
        for span, found in zip(spans, ask(spans, draws=0), strict=True):
            assert found.drawn_ids.shape == (span.n_response, 0), (
                f"draws = 0, and drawn_ids are {tuple(found.drawn_ids.shape)}, expected "
                f"{(span.n_response, 0)}"
            )

    def test_it_gives_as_many_draws_as_it_says(self, ask: Interview, spans: list[Span]) -> None:
        self.capable_of("stands_for_the_tail")
        for draws in (1, DRAWS):
            for span, found in zip(spans, ask(spans, draws=draws), strict=True):
                shape = tuple(found.drawn_ids.shape)
                if self.draws_itself:
                    assert shape == (span.n_response, draws), (
                        f"draws = {draws}, and drawn_ids are {shape}; if the response's own token "
                        "stands for the tail, set `draws_itself = False`"
                    )
                    continue
                own = torch.tensor(span.tokens[-span.n_response :]).unsqueeze(1)
                assert torch.equal(found.drawn_ids, own), (
                    f"`draws_itself` is False, and drawn_ids {shape} are not the response's own "
                    f"tokens {tuple(own.shape)}"
                )

    def test_draws_have_the_models_log_probabilities(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        self.capable_of("stands_for_the_tail")
        for index, found in enumerate(ask(spans, draws=DRAWS)):
            whole = reference(spans[index])
            problem = symptom(found.drawn_logprobs, found.drawn_ids, whole, self.tolerance)
            assert not problem, f"span {index}, drawn_logprobs: {problem}"

    def test_a_draw_from_the_top_k_counts_for_nothing(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        self.capable_of("stands_for_the_tail")
        span = mixed(spans[0], reference, self.top_k)
        (found,) = ask([span], draws=4 * DRAWS)
        there, measure = inside(found), found.drawn_importance_weights
        assert bool((measure[there] == 0).all()), (
            f"a draw that is one of the top K has measure {measure[there].max().item():.3g}, and "
            "its token would count twice: expected 0 (promptbake.distill.objective.outside does it)"
        )
        beside = measure[~there]
        assert bool((beside.isfinite() & (beside > 0)).all()), (
            f"a draw from outside the top K has measure {beside.min().item():.3g}: expected a "
            "finite number above 0"
        )

    def test_its_draws_stand_for_the_tail_without_bias(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        self.capable_of("stands_for_the_tail")
        self.capable_of("draws_itself")
        longest = max(spans, key=lambda span: span.n_response)
        whole = reference(longest)
        for heat in (1.0, TEMPERATURES[0]):
            asked = [replace(longest, temperature=heat)] * REPEATS
            problem = bias(ask(asked, draws=DRAWS), whole, self.tolerance)
            assert not problem, f"a response that was sampled at {heat}: {problem}"

    def test_without_draws_the_response_stands_for_the_tail(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        self.capable_of("stands_for_the_tail")
        if self.draws_itself:
            pytest.skip("it draws itself")
        span = mixed(spans[0], reference, self.top_k)
        for heat in (1.0, *TEMPERATURES):
            (found,) = ask([replace(span, temperature=heat)], draws=DRAWS)
            exact = at((reference(span) / heat).log_softmax(dim=1), found.drawn_ids)
            beside = ~inside(found)
            off = (found.drawn_importance_weights.log() + exact)[beside].abs().max()
            rough = 10 * self.tolerance + (0.0 if heat == 1 else ROUGH)
            assert bool(off <= rough), (
                f"a response that was sampled at {heat}: its measure is {off.exp().item():.3f} "
                "times off 1 / p, p being its probability at that temperature: see "
                "promptbake.distill.objective.response_token_as_draw"
            )

    def test_it_refuses_draws_that_it_cannot_make(self, ask: Interview, spans: list[Span]) -> None:
        if self.stands_for_the_tail:
            pytest.skip("it can make draws")
        error = refusal(lambda: ask(spans, draws=DRAWS))
        assert isinstance(error, BakeError), (
            f"`stands_for_the_tail` is False, and asked for draws it raised {error!r}: expected a "
            "BakeError that says what to set, such as train.tail=bucket"
        )

    def test_another_seed_makes_other_draws(self, ask: Interview, spans: list[Span]) -> None:
        self.capable_of("stands_for_the_tail")
        self.capable_of("draws_itself")
        span = max(spans, key=lambda span: span.n_response)
        one, other = ask([span, span], draws=DRAWS, seeds=seeds_of([span] * 2))
        assert changed(one, other) > 0.1, "two seeds, the same draws: use the seed of the span"
