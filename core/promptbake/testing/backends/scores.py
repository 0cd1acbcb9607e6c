"""The scoring part of the conformance suite for backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from promptbake.interfaces import Model
from promptbake.testing.backends.common import (
    BackendTests,
    filler,
    known_tokens,
    refuses,
    response_spans,
    score,
    some_ids,
    top_k,
)
from promptbake.types import Span

K = 3
LARGEST_CONTEXT = 2**18  # tokens
LARGEST_FILLED = 2**13  # tokens: a larger context is not filled to its end
LOOK_AT_ALIGNMENT = "look at which position's logits are taken, they predict the next token"


class ScoringTests(BackendTests):
    """Of `model.logprobs`, and of what a model says of itself."""

    def test_it_says_what_it_is(self, base: Model, model_name: str) -> None:
        assert base.name == model_name or self.takes_any_name, (
            f"`name` is {base.name!r} of a model that was opened as {model_name!r}"
        )
        assert base.context_tokens > 0, f"`context_tokens` is {base.context_tokens}"
        batch = base.sample_batch
        assert batch is None or batch > 0, f"`sample_batch` is {batch}: None for any number"
        assert isinstance(base.full_vocabulary, bool), f"`full_vocabulary`: {base.full_vocabulary}"
        lines = base.warnings
        assert not isinstance(lines, str), f"`warnings` is {lines!r}: a sequence of lines"
        assert all(isinstance(line, str) for line in lines), f"`warnings`: {lines}"

    def test_named_tokens_are_scored_at_each_response_position(self, base: Model) -> None:
        spans = response_spans(base)
        results = score(base, spans, some_ids(base, spans, K))
        assert len(results) == len(spans), f"{len(results)} results for {len(spans)} spans"
        for span, logprobs in zip(spans, results, strict=True):
            assert logprobs.shape == (span.n_response, K), (
                f"{tuple(logprobs.shape)} for {K} ids at {span.n_response} positions: [N, K] of "
                "the response alone, in the order of the spans"
            )
            assert logprobs.is_floating_point(), f"log-probabilities of type {logprobs.dtype}"
            assert bool(logprobs.isfinite().all()), "a log-probability is not finite"
            assert logprobs.max() <= self.tolerance, f"logits, not log-probabilities: {logprobs}"

    def test_each_position_is_scored_for_its_own_ids(self, base: Model) -> None:
        span = response_spans(base)[0]
        (ids,) = some_ids(base, [span], K)
        (expected,) = score(base, [span], [ids])
        (flipped,) = score(base, [span], [ids.flip(1)])
        self._check_same(flipped.flip(1), expected, "look at what gathers the ids of a row")
        (first,) = score(base, [span], [ids[:1].expand_as(ids)])
        self._check_same(first[:1], expected[:1], "the ids of a position decide its row alone")
        assert (first[1:] - expected[1:]).abs().max() > self.tolerance, (
            "other ids at a position have the same log-probabilities"
        )

    def test_a_position_is_scored_by_what_stands_before_it(self, base: Model) -> None:
        span = response_spans(base)[0]
        (ids,) = some_ids(base, [span], K)
        (expected,) = score(base, [span], [ids])
        for place, changes in ((-1, 0), (-2, 1), (-span.n_response - 1, span.n_response)):
            (logprobs,) = score(base, [_with_another_token(span, place, base)], [ids])
            if same := span.n_response - changes:  # rows before the changed token
                self._check_same(
                    logprobs[:same],
                    expected[:same],
                    f"a row changed with a token behind it; {LOOK_AT_ALIGNMENT}",
                )
            if changes:
                assert (logprobs[same] - expected[same]).abs().max() > self.tolerance, (
                    f"a row stays as it was where the token before it is another: "
                    f"{LOOK_AT_ALIGNMENT}"
                )

    def test_the_rows_are_the_last_ones_of_the_span(self, base: Model) -> None:
        span = response_spans(base)[0]
        (ids,) = some_ids(base, [span], K)
        (expected,) = score(base, [span], [ids])
        for n in (1, span.n_response // 2):
            (last,) = score(base, [replace(span, n_response=n)], [ids[-n:]])
            self._check_same(last, expected[-n:], "the response is the last tokens of the span")

    def test_spans_are_scored_in_their_order_whatever_the_others_are(self, base: Model) -> None:
        spans = response_spans(base)
        ids = some_ids(base, spans, K)
        together = score(base, spans, ids)
        reversed_ = score(base, spans[::-1], ids[::-1])[::-1]
        for index, span in enumerate(spans):
            (alone,) = score(base, [span], [ids[index]])
            for logprobs in (together[index], reversed_[index]):
                self._check_same(
                    logprobs,
                    alone,
                    f"span {index} among others; look at the order of results, at the padding, the "
                    "mask and the positions",
                )

    def test_probabilities_are_normalised(self, base: Model) -> None:
        spans = response_spans(base)
        ids = [torch.tensor([known_tokens(base)] * span.n_response) for span in spans]
        named = score(base, spans, ids)
        sums = torch.cat(named).double().logsumexp(dim=1)
        assert sums.max() < 1e-3, f"some tokens of the vocabulary share e^{sums.max():.3f}"
        if not base.full_vocabulary:
            return
        whole = score(base, spans)
        assert len(whole) == len(spans), f"{len(whole)} results for {len(spans)} spans"
        sizes = {logprobs.shape[1] for logprobs in whole}
        assert len(sizes) == 1, f"vocabularies of {sorted(sizes)} entries"
        for span, given, expected, logprobs in zip(spans, ids, named, whole, strict=True):
            assert len(logprobs) == span.n_response, f"{len(logprobs)} rows: {span.n_response}"
            total = logprobs.double().logsumexp(dim=1).abs().max().item()
            assert total < 1e-3, (
                f"the probabilities of a position sum to e^{total:.3f}: look for logits that are "
                "not normalised, another base than e, and a temperature"
            )
            self._check_same(logprobs.gather(1, given), expected, "all tokens, and named ones")

    def test_a_sequence_longer_than_the_context_is_refused(self, base: Model) -> None:
        size = base.context_tokens
        assert size <= LARGEST_CONTEXT, f"{size} tokens: open a model with a smaller context"
        ids = torch.tensor([[filler(base, 1)[0]]])
        if size <= LARGEST_FILLED:
            (fits,) = score(base, [Span(filler(base, size), 1)], [ids])
            assert fits.shape == (1, 1), f"{tuple(fits.shape)} for one id in {size} tokens"
        long = filler(base, size + 1)
        verbs: dict[str, Callable[[], object]] = {
            "logprobs": lambda: score(base, [Span(long, 1)], [ids]),
            "top_k": lambda: top_k(base, [Span(long, 1)], k=1),
            "sample": lambda: list(
                base.sample([long], max_tokens=1, temperatures=[0.0], seeds=[0])
            ),
            "stream": lambda: list(base.stream(long, max_tokens=1, temperature=0.0, seed=0)),
        }
        for verb, call in verbs.items():
            assert refuses(call, verb), (
                f"`{verb}` takes {size + 1} tokens where `context_tokens` is {size}: it must not "
                "cut them silently"
            )

    def test_no_rows_give_no_results(self, base: Model) -> None:
        assert score(base, [], []) == [], "`logprobs` of no span"
        assert top_k(base, [], k=K) == {}, "`top_k` of no span"
        responses = list(base.sample([], max_tokens=1, temperatures=[], seeds=[]))
        assert responses == [], "`sample` of no prompt"


def _with_another_token(span: Span, place: int, model: Model) -> Span:
    tokens = list(span.tokens)
    tokens[place] = next(token for token in known_tokens(model) if token != tokens[place])
    return replace(span, tokens=tuple(tokens))
