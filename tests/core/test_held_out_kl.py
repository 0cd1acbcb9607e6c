"""The held-out KL and the arms compared: by identity, by hand, by bounds, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.evaluate.statistics import (
    Difference,
    gap_closed,
    paired_difference,
)
from promptbake.types import Datum, KLByConversation, Span, TeacherLogprobs, TokenIds

Table = Mapping[TokenIds, Tensor]


class TableModel:
    """Looks each sequence's log-probabilities [N, V] up, and counts the spans; it draws nothing."""

    def __init__(self, table: Table, full_vocabulary: bool = True) -> None:
        self.full_vocabulary = full_vocabulary
        self.spans_scored = 0
        self._table = table

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        if ids is None and not self.full_vocabulary:
            raise AssertionError("asked for a vocabulary that it cannot give")
        for index, span in enumerate(spans):
            self.spans_scored += 1
            whole = self._table[span.tokens]
            yield whole if ids is None else whole.gather(1, ids[index])

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        for index, span in enumerate(spans):
            self.spans_scored += 1
            top = self._table[span.tokens].topk(k, dim=1)
            nothing = top.values.new_zeros(len(top.values), draws)
            yield index, TeacherLogprobs(top.indices, top.values, nothing.long(), nothing, nothing)


def datum(name: int, n_response: int) -> Datum:
    response = (1,) * n_response
    return Datum(f"c{name}", f"q{name}", (20 + name, *response), (30 + name, *response), n_response)


def random_tables(seed: int, datums: Sequence[Datum], vocabulary: int) -> tuple[Table, Table]:
    """What the base model and the baked one say to every sequence of these datums."""
    generator = torch.Generator().manual_seed(seed)

    def table() -> Table:
        return {
            tokens: (2 * torch.randn(one.n_response, vocabulary, generator=generator))
            .double()
            .log_softmax(dim=1)
            for one in datums
            for tokens in (one.student_ids, one.teacher_ids)
        }

    return table(), table()


def held_out_kl_of(
    teacher: TableModel, datums: Sequence[Datum], k: int | None, keep_bytes: int = 2**20
) -> HeldOutKL:
    """Over the whole vocabulary, or over the teacher's top K with a bucket."""
    if k is None:
        return HeldOutKL(teacher, datums, keep_bytes=keep_bytes)
    spans = [one.teacher for one in datums]
    scores = dict(teacher.top_k(spans, k=k, draws=0, seeds=[0] * len(spans)))
    return HeldOutKL(teacher, datums, [scores[i] for i in range(len(spans))], keep_bytes)


def test_a_model_has_no_kl_from_itself() -> None:
    datums = [datum(0, 3), datum(1, 5)]
    base, _ = random_tables(0, datums, 9)
    for full in (True, False):
        model = TableModel(base, full)
        kl = held_out_kl_of(model, datums, None if full else 4).prompted(model)
        assert kl.nats == pytest.approx((0.0, 0.0), abs=1e-12)
        assert kl.tokens == (3, 5)


def test_three_tokens_by_hand() -> None:
    one = datum(0, 2)
    prompted = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log()
    plain = torch.tensor([[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]]).log()
    model = TableModel({one.teacher_ids: prompted, one.student_ids: plain})
    held_out_kl = HeldOutKL(model, [one])
    # 0.5 log(0.5 / 0.25) + 0.25 log(0.25 / 0.5) + 0, and nothing at the second position
    assert held_out_kl.unprompted(model).nats == pytest.approx([0.25 * math.log(2)])
    assert held_out_kl.unprompted(model).per_token == pytest.approx(0.125 * math.log(2))
    assert held_out_kl.prompted(model).per_token == 0
    assert held_out_kl.unprompted(model).by_token == (pytest.approx((0.25 * math.log(2), 0)),)
    # The likeliest token is another at the first position, and the same at the second.
    assert held_out_kl.unprompted(model).top_1 == (1,)
    assert held_out_kl.prompted(model).top_1 == (2,)
    entropy = 2 * (0.5 * math.log(2) + 0.5 * math.log(4))
    assert held_out_kl.unprompted(model).entropy == pytest.approx([entropy])
    assert held_out_kl.unprompted(model).prompted_entropy == pytest.approx([entropy])


def test_the_model_that_is_measured_reads_the_side_that_is_wanted() -> None:
    datums = [datum(0, 2)]
    base, baked = random_tables(1, datums, 5)
    held_out_kl = HeldOutKL(TableModel(base), datums)

    def by_hand(tokens: TokenIds) -> float:
        teacher = base[datums[0].teacher_ids]
        return float((teacher.exp() * (teacher - baked[tokens])).sum())

    model = TableModel(baked)
    assert held_out_kl.unprompted(model).nats == pytest.approx([by_hand(datums[0].student_ids)])
    assert held_out_kl.prompted(model).nats == pytest.approx([by_hand(datums[0].teacher_ids)])


@given(seed=st.integers(0, 1000), vocabulary=st.integers(2, 12))
@settings(max_examples=30)
def test_the_top_k_with_a_bucket_is_a_lower_bound_that_grows_to_the_full_one(
    seed: int, vocabulary: int
) -> None:
    datums = [datum(0, 3), datum(1, 1)]
    base, baked = random_tables(seed, datums, vocabulary)
    full = HeldOutKL(TableModel(base), datums)
    model = TableModel(baked, full_vocabulary=False)
    partial = [held_out_kl_of(TableModel(base), datums, k) for k in range(1, vocabulary + 1)]
    assert full.kind == "full"
    assert {held_out_kl.kind for held_out_kl in partial} == {"top_k_bucket"}
    bounds = [held_out_kl.unprompted(model).per_token for held_out_kl in partial]
    whole = full.unprompted(TableModel(baked)).per_token
    known = partial[-1].unprompted(model)
    assert known.top_1 == known.entropy == known.prompted_entropy == ()
    assert all(a <= b + 1e-9 for a, b in zip([0.0, *bounds], [*bounds, whole], strict=True))
    assert bounds[-1] == pytest.approx(whole)


@pytest.mark.parametrize("full", [True, False])
def test_the_reference_is_kept_or_computed_again_with_the_same_numbers(full: bool) -> None:
    datums = [datum(0, 3), datum(1, 2)]
    base, baked = random_tables(2, datums, 6)
    columns = 6 if full else 3
    size = 5 * columns * 8  # bytes: float64 [N, columns]
    measured, scored = [], []
    for keep_bytes in (size, size - 1, 0):
        teacher, model = TableModel(base, full), TableModel(baked, full)
        held_out_kl = held_out_kl_of(teacher, datums, None if full else 2, keep_bytes)
        measured += [held_out_kl.unprompted(model), held_out_kl.unprompted(model)]
        scored.append(teacher.spans_scored)
    assert all(kl == measured[0] for kl in measured)
    assert scored == ([2, 4, 4] if full else [2, 2, 2])  # the top K is scored once


def test_a_token_counts_the_same_in_long_and_short_responses() -> None:
    assert KLByConversation((1.0, 2.0), (1, 9)).per_token == pytest.approx(0.3)


@pytest.mark.parametrize(("after", "gap"), [(2.0, 0.0), (0.5, 0.75), (0.0, 1.0), (3.0, -0.5)])
def test_the_gap_closed_is_the_share_of_the_way_to_the_prompt(after: float, gap: float) -> None:
    base, baked = KLByConversation((1.5, 0.5), (3, 5)), KLByConversation((after, 0.0), (3, 5))
    assert gap_closed(base, baked) == gap


values = st.floats(-9, 9, allow_subnormal=False)  # torch may have been told to flush them to 0
scores = st.dictionaries(st.sampled_from("abcdef"), values, min_size=1)


def test_three_items_by_hand() -> None:
    """The differences are 1, 2 and 3: standard error 1 / sqrt(3), and t(0.975, 2) is 4.3027."""
    difference = paired_difference(
        {"a": 2, "b": 4, "c": 6, "d": 9}, {"a": 1, "b": 2, "c": 3, "e": 0}
    )
    assert difference is not None
    assert (difference.mean, difference.items) == (2.0, 3)
    margin = 4.302653 / math.sqrt(3)
    assert difference.ci95 == pytest.approx((2 - margin, 2 + margin), rel=1e-6)
    margin = 2.919986 / math.sqrt(3)
    assert difference.ci90 == pytest.approx((2 - margin, 2 + margin), rel=1e-6)


@given(scores)
def test_an_arm_does_not_differ_from_itself(arm: dict[str, float]) -> None:
    interval = (0.0, 0.0) if len(arm) > 1 else None
    assert paired_difference(arm, arm) == Difference(0.0, interval, len(arm), interval)


@given(scores, scores)
def test_the_other_way_round_it_has_the_other_sign(
    one: dict[str, float], other: dict[str, float]
) -> None:
    forth, back = paired_difference(one, other), paired_difference(other, one)
    if forth is None or back is None:
        assert not one.keys() & other.keys()
        return
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.items == back.items == len(one.keys() & other.keys())
    if forth.ci95 and back.ci95:
        assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))
        assert forth.ci95[0] <= forth.mean <= forth.ci95[1]
    else:
        assert forth.items == 1


def test_a_difference_that_is_the_same_but_for_rounding_has_a_narrow_interval() -> None:
    difference = paired_difference({"a": 0.9, "b": 0.5, "c": 0.4}, {"a": 0.8, "b": 0.4, "c": 0.3})
    assert difference is not None
    assert difference.ci95 == pytest.approx((0.1, 0.1))
