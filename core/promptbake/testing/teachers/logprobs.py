"""The part of the suite for teachers that is about the top K and their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from promptbake.interfaces import Model
from promptbake.testing.teachers.answers import refusal
from promptbake.testing.teachers.diagnosis import SMALL, at, distance, symptom
from promptbake.testing.teachers.spans import Reference, cut, lengthened
from promptbake.testing.teachers.teacher_client import PARTS, TEMPERATURES, Interview, TeacherTests
from promptbake.types import Datum, Span

LONG = 2048  # tokens: no longer sequence is tried
COARSEST = 0.1  # nats: about what bfloat16 does
FEWEST = 3  # columns in which a mistake can be told from another


class NumberTests(TeacherTests):
    """Of the top K."""

    # What its answers look like.

    def test_each_response_token_has_a_row(self, ask: Interview, spans: list[Span]) -> None:
        ask([*spans, cut(spans[0], 1)], draws=self.draws)

    def test_each_span_is_answered_once(self, ask: Interview, spans: list[Span]) -> None:
        ask(spans)
        ask([spans[0], spans[1], spans[0]])

    def test_it_gives_the_index_of_the_span(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        alike = [cut(span, 3) for span in spans]  # so that no shape gives it away
        wholes = [reference(span) for span in alike]
        for index, found in enumerate(ask(alike)):
            off = [distance(found.logprobs, found.ids, whole) for whole in wholes]
            best = off.index(min(off))
            assert best == index or off[best] > SMALL + self.tolerance, (
                f"what comes with index {index} is about span {best}: yield the span's own index, "
                "and not the number of the answer"
            )

    def test_its_tensors_have_the_promised_types(self, ask: Interview, spans: list[Span]) -> None:
        for _, found in ask.raw(spans, draws=self.draws):
            for name in PARTS:
                expected = torch.int64 if name.endswith("ids") else torch.float32
                dtype = getattr(found, name).dtype
                assert dtype == expected, f"{name} is {dtype}, expected {expected}"

    def test_it_gives_as_many_log_probabilities_as_it_is_asked_for(
        self, ask: Interview, spans: list[Span]
    ) -> None:
        for k in (1, 2, self.top_k):
            for span, found in zip(spans, ask(spans, k=k), strict=True):
                assert found.ids.shape == (span.n_response, k), (
                    f"ids are {tuple(found.ids.shape)} where k = {k} and the response has "
                    f"{span.n_response} tokens; the response's own token is none of the top K "
                    "unless it is that likely, and fewer than K are a BakeError"
                )

    def test_each_row_holds_different_tokens_most_likely_first(
        self, ask: Interview, spans: list[Span]
    ) -> None:
        for index, found in enumerate(ask(spans)):
            assert bool((found.logprobs.diff(dim=1) <= 0).all()), (
                f"span {index}: log-probabilities rise from left to right; sort them, the most "
                f"likely first, and the ids with them: {found.logprobs[0].tolist()}"
            )
            twice = found.ids.sort(dim=1).values.diff(dim=1) == 0
            assert not bool(twice.any()), (
                f"span {index}: a token is there twice, {found.ids[twice.any(dim=1)][0].tolist()}; "
                "its probability would count twice"
            )

    def test_its_numbers_are_finite_and_no_log_probability_is_above_zero(
        self, ask: Interview, spans: list[Span]
    ) -> None:
        for index, found in enumerate(ask(spans, draws=self.draws)):
            for name in ("logprobs", "drawn_logprobs", "drawn_importance_weights"):
                part = getattr(found, name)
                assert bool(part.isfinite().all()), (
                    f"span {index}: {name} has {part[~part.isfinite()][0].item()}; a token without "
                    "a log-probability is none of the top K, and no draw"
                )
                assert name == "drawn_importance_weights" or bool((part <= 1e-4).all()), (
                    f"span {index}: {name} reaches {part.max().item():.4f}, above 0: look for a "
                    "turned sign, for probabilities, and for logits without log_softmax"
                )

    # What they say.

    def test_its_flags_let_mistakes_be_seen(self) -> None:
        assert 0 <= self.tolerance <= COARSEST, (
            f"`tolerance` is {self.tolerance} nats: more than {COARSEST} would hide mistakes"
        )
        assert self.top_k >= FEWEST, f"`top_k` is {self.top_k}: set {FEWEST} at least"

    def test_its_log_probabilities_are_the_models_in_nats(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        for index, found in enumerate(ask(spans)):
            problem = symptom(found.logprobs, found.ids, reference(spans[index]), self.tolerance)
            assert not problem, f"span {index}: {problem}"

    def test_nothing_that_it_leaves_out_is_likelier(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        for index, found in enumerate(ask(spans)):
            whole = reference(spans[index])
            least = at(whole, found.ids).min(dim=1).values
            others = whole.scatter(1, found.ids, -torch.inf).max(dim=1)
            row = int((others.values - least).argmax())
            assert others.values[row] - least[row] <= 2 * self.tolerance, (
                f"span {index}, position {row}: token {int(others.indices[row])} is left out with "
                f"{others.values[row].item():.3f} nats, and one with {least[row].item():.3f} is "
                "there: look for samples in the place of the top K, and at what the ids index"
            )

    def test_it_reads_the_system_prompt(
        self, ask: Interview, datums: Sequence[Datum], reference: Reference
    ) -> None:
        for datum in datums:
            sides = {"with the prompt": datum.teacher, "without it": datum.student}
            for side, found in zip(sides, ask(list(sides.values())), strict=True):
                off = {
                    which: distance(found.logprobs, found.ids, reference(other))
                    for which, other in sides.items()
                }
                best = min(off, key=off.__getitem__)
                assert best == side or off[best] > SMALL + self.tolerance, (
                    f"{datum.conversation_id}: the answer to the conversation {side} is "
                    f"{off[side]:.3g} nats off, and fits the one {best}: score `span.tokens` as "
                    "they are, render nothing anew, and tell spans apart by all of their tokens"
                )

    def test_it_reads_the_response(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        length = min(span.n_response for span in spans[:2])
        prompt = spans[0].tokens[: -spans[0].n_response]
        alike = [cut(span, length) for span in spans[:2]]
        asked = [Span(prompt + span.tokens[-length:], length, spans[0].name) for span in alike]
        wholes = [reference(span) for span in asked]
        for index, found in enumerate(ask(asked)):
            off = [distance(found.logprobs, found.ids, whole) for whole in wholes]
            best = off.index(min(off))
            assert best == index or off[best] > SMALL + self.tolerance, (
                f"of two responses to one prompt, what comes for no. {index + 1} fits the other: "
                f"{off[index]:.3g} nats off. Look for what is kept by the prompt's "
                "tokens or by the span's name, and not by all of its tokens"
            )

    def test_it_reads_a_long_prompt_from_its_beginning(
        self, ask: Interview, spans: list[Span], model: Model, reference: Reference
    ) -> None:
        span = lengthened(spans[-1], min(model.context_tokens, LONG) // 2)
        (found,) = ask([span])
        problem = symptom(found.logprobs, found.ids, reference(span), self.tolerance)
        assert not problem, (
            f"in a sequence of {len(span.tokens)} tokens {problem}; look for a length at which it "
            "is cut"
        )

    def test_what_does_not_fit_the_context_is_not_cut(
        self, ask: Interview, spans: list[Span], model: Model, reference: Reference
    ) -> None:
        if model.context_tokens > LONG:
            pytest.skip(f"a context of {model.context_tokens} tokens is too much to fill here")
        span = lengthened(spans[-1], model.context_tokens + 16)
        if refusal(lambda: ask([span])) is None:
            (found,) = ask([span])
            problem = symptom(found.logprobs, found.ids, reference(span), self.tolerance)
            assert not problem, (
                f"a sequence of {len(span.tokens)} tokens, and a context of "
                f"{model.context_tokens}, and no error: raise a BakeError; {problem}"
            )

    def test_it_is_at_temperature_1_whatever_the_response_was_sampled_at(
        self, ask: Interview, spans: list[Span], reference: Reference
    ) -> None:
        for heat in TEMPERATURES:
            found = ask([replace(span, temperature=heat) for span in spans])
            for index, span in enumerate(spans):
                answer = found[index]
                problem = symptom(answer.logprobs, answer.ids, reference(span), self.tolerance)
                assert not problem, f"a response that was sampled at {heat}: {problem}"
