"""The tests of TeacherSuite about the draws, which stand for the tail."""

from __future__ import annotations

from dataclasses import replace

import torch

from promptbake.errors import BakeError
from promptbake.testing.etiquette import error_of
from promptbake.testing.suite import only_if
from promptbake.testing.teachers.diagnosis import bias, changed, diagnose
from promptbake.testing.teachers.logprobs import LogprobTests
from promptbake.testing.teachers.spans import mixed
from promptbake.testing.teachers.teacher_client import (
    DRAWS,
    TEMPERATURES,
    TeacherClient,
    seeds_of,
)
from promptbake.types import Span, TeacherLogprobs

REPEATS = 32  # times that one span is scored, with other seeds


class TailTests(LogprobTests):
    """Of the draws."""

    def test_it_says_whether_it_draws(self, score: TeacherClient) -> None:
        says = score.teacher.samples_tail
        assert says is self.samples_tail, (
            f"the teacher's `samples_tail` is {says!r} and the suite's {self.samples_tail}: by it "
            "the core decides whether to ask for draws"
        )

    def test_it_draws_nothing_where_draws_is_0(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        for span, result in zip(spans, score(spans, draws=0), strict=True):
            assert result.drawn_ids.shape == (span.n_response, 0), (
                f"draws = 0, and drawn_ids are {tuple(result.drawn_ids.shape)}, expected "
                f"{(span.n_response, 0)}"
            )

    @only_if("samples_tail")
    def test_it_gives_the_draws_that_it_says(self, score: TeacherClient, spans: list[Span]) -> None:
        for draws in (1, DRAWS):
            for span, result in zip(spans, score(spans, draws=draws), strict=True):
                shape = tuple(result.drawn_ids.shape)
                assert shape == (span.n_response, draws), (
                    f"draws = {draws}, and drawn_ids are {shape}; if it draws nothing, set "
                    "`samples_tail = False`, here and on the teacher"
                )

    @only_if("samples_tail")
    def test_draws_have_the_models_log_probabilities(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        for index, result in enumerate(score(spans, draws=DRAWS)):
            whole = score.reference(spans[index])
            problem = diagnose(result.drawn_logprobs, result.drawn_ids, whole, self.tolerance)
            assert not problem, f"span {index}, drawn_logprobs: {problem}"

    @only_if("samples_tail")
    def test_a_draw_inside_the_top_k_has_weight_0(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        (result,) = score([mixed(spans[0], score.reference, self.top_k)], draws=4 * DRAWS)
        inside, weights = _inside(result), result.drawn_importance_weights
        assert bool((weights[inside] == 0).all()), (
            f"a draw that is one of the top K has weight {weights[inside].max().item():.3g}, and "
            "its token would count twice: expected 0 (see promptbake.mask_top_k_draws)"
        )
        outside = weights[~inside]
        assert bool((outside.isfinite() & (outside > 0)).all()), (
            f"a draw from outside the top K has weight {outside.min().item():.3g}: expected a "
            "finite number above 0"
        )

    @only_if("samples_tail")
    def test_the_draws_estimate_the_tail_without_bias(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        longest = max(spans, key=lambda span: span.n_response)
        for temperature in (1.0, TEMPERATURES[0]):
            repeated = [replace(longest, temperature=temperature)] * REPEATS
            problem = bias(score(repeated, draws=DRAWS), score.reference(longest), self.tolerance)
            assert not problem, f"a response that was sampled at {temperature}: {problem}"

    @only_if("samples_tail", False)
    def test_it_refuses_draws_that_it_cannot_make(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        error = error_of(lambda: score(spans, draws=DRAWS))
        assert isinstance(error, BakeError), (
            f"`samples_tail` is False, and with draws = {DRAWS} it raised {error!r}: expected a "
            "BakeError that says what to set, such as train.tail=bucket"
        )

    @only_if("samples_tail")
    def test_another_seed_gives_other_draws(self, score: TeacherClient, spans: list[Span]) -> None:
        span = max(spans, key=lambda span: span.n_response)
        one, other = score([span, span], draws=DRAWS, seeds=seeds_of([span] * 2))
        assert changed(one, other) > 0.1, "two seeds, the same draws: use the seed of the span"


def _inside(result: TeacherLogprobs) -> torch.Tensor:
    """Which draws [N, M] are among the top K."""
    return (result.drawn_ids.unsqueeze(2) == result.ids.unsqueeze(1)).any(dim=2)
