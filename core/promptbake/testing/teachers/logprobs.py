"""The tests of TeacherSuite about the top K and their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from promptbake.testing.etiquette import error_of
from promptbake.testing.suite import only_if
from promptbake.testing.teachers.diagnosis import SMALL, at, best_match, diagnose
from promptbake.testing.teachers.spans import cut, lengthened
from promptbake.testing.teachers.teacher_client import (
    TEMPERATURES,
    TENSORS,
    TeacherClient,
    TeacherTests,
)
from promptbake.types import Datum, Span

LONG = 2048  # tokens: no longer sequence is scored
COARSEST = 0.1  # nats: about what bfloat16 does
FEWEST = 3  # columns in which a mistake can be told from another


class LogprobTests(TeacherTests):
    """Of the top K."""

    # Their form.

    def test_each_response_token_has_a_row(self, score: TeacherClient, spans: list[Span]) -> None:
        score([*spans, cut(spans[0], 1)], draws=self.draws)

    def test_each_span_is_scored_once(self, score: TeacherClient, spans: list[Span]) -> None:
        score(spans)
        score([spans[0], spans[1], spans[0]])

    def test_each_result_comes_with_its_spans_index(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        same_length = [cut(span, 3) for span in spans]  # so that no shape gives it away
        references = [score.reference(span) for span in same_length]
        for index, result in enumerate(score(same_length)):
            best, off = best_match(result, references)
            assert best == index or off[best] > SMALL + self.tolerance, (
                f"what comes with index {index} is about span {best}: yield the span's own index, "
                "and not the number of the result"
            )

    def test_the_tensors_have_the_documented_types(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        for _, result in score.pairs(spans, draws=self.draws):
            for name in TENSORS:
                expected = torch.int64 if name.endswith("ids") else torch.float32
                dtype = getattr(result, name).dtype
                assert dtype == expected, f"{name} is {dtype}, expected {expected}"

    def test_each_row_has_k_tokens(self, score: TeacherClient, spans: list[Span]) -> None:
        for k in (1, 2, self.top_k):
            for span, result in zip(spans, score(spans, k=k), strict=True):
                assert result.ids.shape == (span.n_response, k), (
                    f"ids are {tuple(result.ids.shape)} where k = {k} and the response has "
                    f"{span.n_response} tokens; fewer than K are a BakeError"
                )

    def test_each_row_has_distinct_tokens_most_likely_first(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        for index, result in enumerate(score(spans)):
            assert bool((result.logprobs.diff(dim=1) <= 0).all()), (
                f"span {index}: log-probabilities rise from left to right: "
                f"{result.logprobs[0].tolist()}"
            )
            twice = result.ids.sort(dim=1).values.diff(dim=1) == 0
            assert not bool(twice.any()), (
                f"span {index}: a token is there twice, {result.ids[twice.any(dim=1)][0].tolist()}"
            )

    def test_the_numbers_are_finite_and_no_log_probability_is_positive(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        for index, result in enumerate(score(spans, draws=self.draws)):
            for name in ("logprobs", "drawn_logprobs", "drawn_importance_weights"):
                part = getattr(result, name)
                assert bool(part.isfinite().all()), (
                    f"span {index}: {name} has {part[~part.isfinite()][0].item()}; a token without "
                    "a log-probability is none of the top K, and no draw"
                )
                assert name == "drawn_importance_weights" or bool((part <= 1e-4).all()), (
                    f"span {index}: {name} reaches {part.max().item():.4f}, above 0: look for a "
                    "turned sign, for probabilities, and for logits without log_softmax"
                )

    # Their values.

    def test_the_flags_are_strict_enough(self) -> None:
        assert 0 <= self.tolerance <= COARSEST, (
            f"`tolerance` is {self.tolerance} nats: more than {COARSEST} would hide mistakes"
        )
        assert self.top_k >= FEWEST, f"`top_k` is {self.top_k}: set {FEWEST} at least"

    def test_the_log_probabilities_are_the_models_in_nats(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        self._check(score, spans)

    def test_the_distribution_is_at_temperature_1(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        for temperature in TEMPERATURES:  # that the response was sampled at
            self._check(
                score,
                [replace(each, temperature=temperature) for each in spans],
            )

    def test_no_token_left_out_is_likelier(self, score: TeacherClient, spans: list[Span]) -> None:
        for index, result in enumerate(score(spans)):
            whole = score.reference(spans[index])
            least = at(whole, result.ids).min(dim=1).values
            others = whole.scatter(1, result.ids, -torch.inf).max(dim=1)
            row = int((others.values - least).argmax())
            assert others.values[row] - least[row] <= 2 * self.tolerance, (
                f"span {index}, position {row}: token {int(others.indices[row])} is left out with "
                f"{others.values[row].item():.3f} nats, and one with {least[row].item():.3f} is "
                "there: look for samples in the place of the top K, and at what the ids index"
            )

    # The tokens that they depend on.

    def test_it_reads_the_system_prompt(
        self, score: TeacherClient, datums: Sequence[Datum]
    ) -> None:
        for datum in datums:
            both = [datum.teacher, datum.student]
            for index, result in enumerate(score(both)):
                best, off = best_match(result, [score.reference(span) for span in both])
                assert best == index or off[best] > SMALL + self.tolerance, (
                    f"{datum.conversation_id}: of the conversation with the prompt and without it, "
                    f"the result for no. {index + 1} is {off[index]:.3g} nats off, and fits the "
                    "other: score `span.tokens` as they are"
                )

    def test_it_reads_the_response(self, score: TeacherClient, spans: list[Span]) -> None:
        length = min(span.n_response for span in spans[:2])
        prompt = spans[0].tokens[: -spans[0].n_response]
        responses = [cut(span, length).tokens[-length:] for span in spans[:2]]
        both = [Span(prompt + response, length, spans[0].name) for response in responses]
        for index, result in enumerate(score(both)):
            best, off = best_match(result, [score.reference(span) for span in both])
            assert best == index or off[best] > SMALL + self.tolerance, (
                f"of two responses to one prompt, the result for no. {index + 1} is "
                f"{off[index]:.3g} nats off, and fits the other: look for a cache by the prompt"
            )

    def test_it_reads_a_long_prompt_from_its_beginning(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        self._check(score, [lengthened(spans[-1], min(score.model.context_tokens, LONG) // 2)])

    @only_if("fills_context")
    def test_a_span_beyond_the_context_is_not_cut(
        self, score: TeacherClient, spans: list[Span]
    ) -> None:
        assert score.model.context_tokens <= LONG, (
            f"{score.model.context_tokens} tokens are too many to fill: set `fills_context = False`"
        )
        span = lengthened(spans[-1], score.model.context_tokens + 16)
        if error_of(lambda: score([span])) is None:
            self._check(score, [span])

    def _check(self, score: TeacherClient, spans: Sequence[Span]) -> None:
        """Refuse log-probabilities that are not the model's."""
        for index, (span, result) in enumerate(zip(spans, score(spans), strict=True)):
            problem = diagnose(result.logprobs, result.ids, score.reference(span), self.tolerance)
            assert not problem, (
                f"span {index}, of {len(span.tokens)} tokens, with a response that was sampled at "
                f"{span.temperature}: {problem}"
            )
