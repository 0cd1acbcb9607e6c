"""The scoring part of the conformance suite for backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from promptbake.interfaces import Model
from promptbake.testing.backends.common import (
    LONGEST,
    BackendTests,
    ask,
    filler,
    known_tokens,
    response_spans,
    some_ids,
    tops,
)
from promptbake.types import Span

K = 3
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
        assert not isinstance(base.warnings, str), (
            f"`warnings` is {base.warnings!r}: a sequence of lines"
        )
        assert all(isinstance(line, str) for line in base.warnings), f"`warnings`: {base.warnings}"

    def test_named_tokens_are_scored_at_each_response_position(self, base: Model) -> None:
        spans = response_spans(base)
        found = ask(base, spans, some_ids(base, spans, K))
        assert len(found) == len(spans), f"{len(found)} results for {len(spans)} spans"
        for span, logprobs in zip(spans, found, strict=True):
            assert logprobs.shape == (span.n_response, K), (
                f"{tuple(logprobs.shape)} for {K} ids at {span.n_response} positions: [N, K] of "
                "the response alone, in the order of the spans"
            )
            assert logprobs.is_floating_point(), f"log-probabilities of type {logprobs.dtype}"
            assert bool(logprobs.isfinite().all()), "a log-probability is not finite"
            assert logprobs.max() <= self.tolerance, (
                f"a log-probability of {logprobs.max():.3f}: logits are not normalised"
            )

    def test_each_position_is_scored_for_its_own_ids(self, base: Model) -> None:
        span = response_spans(base)[0]
        (ids,) = some_ids(base, [span], K)
        (found,) = ask(base, [span], [ids])
        (turned,) = ask(base, [span], [ids.flip(1)])
        self._check_same(turned.flip(1), found, "ids in another order, look at what gathers them")
        (first,) = ask(base, [span], [ids[:1].expand_as(ids)])
        self._check_same(
            first[:1], found[:1], "the ids of a position decide its row, look at what gathers them"
        )
        assert (first[1:] - found[1:]).abs().max() > self.tolerance, (
            "other ids at a position have the same log-probabilities"
        )

    def test_a_position_is_scored_by_what_stands_before_it(self, base: Model) -> None:
        span = response_spans(base)[0]
        (ids,) = some_ids(base, [span], K)
        (found,) = ask(base, [span], [ids])
        for place, moved in ((-1, 0), (-2, 1), (-span.n_response - 1, span.n_response)):
            (other,) = ask(base, [_with_another_token(span, place, base)], [ids])
            rows = span.n_response - moved
            if rows:
                self._check_same(
                    other[:rows],
                    found[:rows],
                    f"a row changed with a token behind it; {LOOK_AT_ALIGNMENT}",
                )
            if moved:
                assert (other[rows] - found[rows]).abs().max() > self.tolerance, (
                    f"a row stays as it was where the token before it is another: "
                    f"{LOOK_AT_ALIGNMENT}"
                )

    def test_the_rows_are_the_last_ones_of_the_span(self, base: Model) -> None:
        span = response_spans(base)[0]
        (ids,) = some_ids(base, [span], K)
        (found,) = ask(base, [span], [ids])
        for n in (1, span.n_response // 2):
            (last,) = ask(base, [replace(span, n_response=n)], [ids[-n:]])
            self._check_same(last, found[-n:], "the response is the last tokens of the span")

    def test_spans_are_scored_in_their_order_and_not_by_their_company(self, base: Model) -> None:
        spans = response_spans(base)
        ids = some_ids(base, spans, K)
        together = ask(base, spans, ids)
        turned = ask(base, spans[::-1], ids[::-1])[::-1]
        for index, (span, given) in enumerate(zip(spans, ids, strict=True)):
            (alone,) = ask(base, [span], [given])
            for found in (together[index], turned[index]):
                self._check_same(
                    found,
                    alone,
                    f"span {index} in company; look at the order of results, at the padding, the "
                    "mask and the positions",
                )

    def test_the_whole_vocabulary_is_normalised(self, base: Model) -> None:
        if not base.full_vocabulary:
            pytest.skip("`full_vocabulary` is False")
        spans = response_spans(base)
        ids = some_ids(base, spans, K)
        named = ask(base, spans, ids)
        whole = [found.cpu() for found in base.logprobs(spans)]
        assert len(whole) == len(spans), f"{len(whole)} results for {len(spans)} spans"
        sizes = {found.shape[1] for found in whole}
        assert len(sizes) == 1, f"vocabularies of {sorted(sizes)} entries"
        for span, given, some, found in zip(spans, ids, named, whole, strict=True):
            assert len(found) == span.n_response, f"{len(found)} rows for {span.n_response} tokens"
            total = found.double().logsumexp(dim=1).abs().max().item()
            assert total < 1e-3, (
                f"the probabilities of a position sum to e^{total:.3f}: look for logits that are "
                "not normalised, another base than e, and a temperature"
            )
            self._check_same(some, found.gather(1, given), "named ids and the whole vocabulary")

    def test_what_is_longer_than_the_context_is_refused(self, base: Model) -> None:
        size = base.context_tokens
        if size > LONGEST:
            pytest.skip(f"a context of {size} tokens is not filled")
        ids = torch.tensor([[filler(base, 1)[0]]])
        (fits,) = ask(base, [Span(filler(base, size), 1)], [ids])
        assert fits.shape == (1, 1), f"{tuple(fits.shape)} for one id in a sequence of {size}"
        long = filler(base, size + 1)
        wanted = {"max_tokens": 1, "temperatures": [0.0], "seeds": [0]}
        tries: dict[str, Callable[[], object]] = {
            "logprobs": lambda: ask(base, [Span(long, 1)], [ids]),
            "top_k": lambda: tops(base, [Span(long, 1)], k=1),
            "sample": lambda: list(base.sample([long], **wanted)),  # type: ignore[arg-type]
        }
        for verb, attempt in tries.items():
            assert _raises(attempt), (
                f"`{verb}` takes {size + 1} tokens where `context_tokens` is {size}: it must not "
                "cut them silently"
            )

    def test_asked_for_nothing_it_gives_nothing(self, base: Model) -> None:
        assert ask(base, [], []) == [], "`logprobs` of no span"
        assert tops(base, [], k=K) == {}, "`top_k` of no span"
        found = list(base.sample([], max_tokens=1, temperatures=[], seeds=[]))
        assert found == [], "`sample` of no prompt"


def _with_another_token(span: Span, place: int, model: Model) -> Span:
    tokens = list(span.tokens)
    tokens[place] = next(token for token in known_tokens(model) if token != tokens[place])
    return replace(span, tokens=tuple(tokens))


def _raises(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:  # a BakeError says it best, and the server's own error will do
        return True
    return False
