"""Intervals: by hand, at their edges, and how often they hold what is true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, multinomial

from promptbake.evaluate.intervals import (
    gap_closed_interval,
    per_token_interval,
    ratio_interval,
)
from promptbake.evaluate.shares import PairedShares, paired_shares, rule_of_three, wilson
from promptbake.evaluate.statistics import gap_closed
from promptbake.types import KLByConversation

GAP = 0.8
REPEATS = 600


def kl(*nats: float) -> KLByConversation:
    return KLByConversation(nats, (1,) * len(nats))


def test_the_gaps_interval_by_hand() -> None:
    """Ratios of 0.1 and 0.4: without the one the other is left, so the error is log 2.

    Student's t(0.975, 1) is 12.706, t(0.95, 1) is 6.314.
    """
    base, baked = kl(1.0, 1.0), kl(0.1, 0.4)
    for level, t in ((0.95, 12.7062), (0.9, 6.31375)):
        reach = math.exp(t * math.log(2))
        expected = (1 - 0.25 * reach, 1 - 0.25 / reach)
        interval = gap_closed_interval(base, baked, ["a", "b"], level)
        assert interval == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 10_000), st.integers(3, 30))
@settings(max_examples=25)
def test_the_interval_holds_the_estimate_and_is_wider_at_a_higher_level(
    seed: int, queries: int
) -> None:
    generator = np.random.default_rng(seed)
    base, baked = (kl(*generator.lognormal(0, 0.5, queries)) for _ in range(2))
    groups = [f"q{n}" for n in range(queries)]
    wide, narrow = (gap_closed_interval(base, baked, groups, level) for level in (0.95, 0.9))
    assert wide
    assert narrow
    assert wide[0] < narrow[0] < gap_closed(base, baked) < narrow[1] < wide[1] < 1


def test_the_responses_to_one_query_are_one_observation() -> None:
    base, baked = kl(1.0, 1.0, 1.0, 1.0), kl(0.8, 0.2, 0.8, 0.2)
    together = gap_closed_interval(base, baked, ["a", "a", "b", "b"])
    assert together == pytest.approx((0.5, 0.5))
    apart = gap_closed_interval(base, baked, ["a", "b", "c", "d"])
    assert apart
    assert apart[0] < 0.3 < 0.7 < apart[1]


def test_every_response_needs_its_query() -> None:
    with pytest.raises(ValueError, match="zip"):
        gap_closed_interval(kl(1.0, 1.0), kl(1.0, 1.0), ["a"])


@pytest.mark.parametrize(
    ("base", "baked"),
    [
        (kl(1.0), kl(0.5)),  # one query
        (kl(0.0, 0.0, 1.0), kl(0.1, 0.1, 0.1)),  # one query has the whole gap
        (kl(0.0, 0.0), kl(0.0, 0.0)),
    ],
)
def test_there_is_no_interval_where_one_query_decides(
    base: KLByConversation, baked: KLByConversation
) -> None:
    groups = [str(n) for n in range(len(base.nats))]
    assert gap_closed_interval(base, baked, groups) is None


def test_an_arm_that_is_0_but_for_one_query_has_an_interval_on_the_ratio_itself() -> None:
    """The ratio is 1/4, without the one query 0 and else 1/3: the jackknife's error is 1/4."""
    interval = ratio_interval([1.0, 0.0, 0.0, 0.0], [1.0] * 4)
    assert interval == pytest.approx((0.0, 0.25 + 3.18245 / 4), rel=1e-5)
    assert ratio_interval([0.0] * 4, [1.0] * 4) == (0.0, 0.0)


def test_equal_queries_leave_no_doubt_and_an_extreme_ratio_stays_finite() -> None:
    assert per_token_interval([2.0, 4.0], [1, 2], ["a", "b"]) == pytest.approx((2.0, 2.0))
    interval = ratio_interval([1e-9, 1e9], [1.0, 1.0])
    assert interval
    assert all(math.isfinite(end) for end in interval)


def simulated(queries: int, responses: int, spread: tuple[float, float], seed: int) -> list[
    tuple[KLByConversation, KLByConversation, list[str]]
]:  # fmt: skip
    """Runs whose true gap is GAP, with log-normal KLs by query and by response within it."""
    generator = np.random.default_rng(seed)
    groups = [f"q{n // responses}" for n in range(queries * responses)]
    runs = []
    for _ in range(REPEATS):
        tokens = generator.integers(10, 60, (queries, responses))
        arms = []
        for level, deviation in ((1.0, spread[0]), (1 - GAP, spread[1])):
            by_query = generator.lognormal(-(deviation**2) / 2, deviation, (queries, 1))
            within = generator.lognormal(-0.08, 0.4, (queries, responses))
            nats = (level * by_query * within * tokens).reshape(-1).tolist()
            arms.append(KLByConversation(tuple(nats), tuple(tokens.reshape(-1).tolist())))
        runs.append((arms[0], arms[1], groups))
    return runs


@pytest.mark.parametrize("spread", [(0.45, 0.3), (0.5, 0.6)])
@pytest.mark.parametrize("responses", [1, 2])
@pytest.mark.parametrize("queries", [15, 40])
def test_the_interval_holds_the_true_gap_and_the_margin_is_seldom_passed_by_chance(
    queries: int, responses: int, spread: tuple[float, float]
) -> None:
    covered = accepted = 0
    for base, baked, groups in simulated(queries, responses, spread, seed=0):
        wide, narrow = (gap_closed_interval(base, baked, groups, level) for level in (0.95, 0.9))
        assert wide
        assert narrow
        covered += wide[0] <= GAP <= wide[1]
        accepted += narrow[0] >= GAP  # the true gap is the margin: at most 5 % should be accepted
    assert 0.92 <= covered / REPEATS <= 0.98
    assert accepted / REPEATS <= 0.07


@pytest.mark.parametrize("items", [10, 20, 40])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_wilsons_interval_holds_the_true_share(items: int, share: float) -> None:
    held = sum(
        float(binom.pmf(count, items, share))
        for count in range(items + 1)
        if wilson(count, items)[0] <= share <= wilson(count, items)[1]
    )
    assert 0.90 <= held <= 0.99


def test_wilsons_interval_by_hand() -> None:
    """9 of 10 (Newcombe 1998), and none: z^2 / (n + z^2)."""
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10)[1] == 1.0


def test_none_of_n_says_little() -> None:
    assert rule_of_three(0, 20) == "0 passes in 20 only says fewer than 15% (95 %)"
    assert rule_of_three(20, 20) == "0 failures in 20 only says fewer than 15% (95 %)"
    assert rule_of_three(19, 20) == rule_of_three(3, 3) == ""


def test_paired_shares_by_hand() -> None:
    """9 items of 20 differ, 8 of them one way: 2 (1 + 9) / 2^9 by the sign test."""
    pairs = PairedShares(both=6, first_only=8, second_only=1, neither=5)
    assert (pairs.items, pairs.difference) == (20, 0.35)
    assert pairs.p_value == pytest.approx(20 / 512)
    low, high = pairs.interval()
    assert 0 < low < 0.35 < high < 1
    assert PairedShares(6, 1, 8, 5).interval() == pytest.approx((-high, -low))


def test_items_that_all_agree_leave_room_for_a_difference() -> None:
    z2 = 1.6448536**2
    low, high = PairedShares(7, 0, 0, 3).interval(0.9)
    assert (low, high) == pytest.approx((-z2 / (10 + z2), z2 / (10 + z2)))
    assert PairedShares(7, 0, 0, 3).p_value == 1.0


@pytest.mark.parametrize("items", [10, 25])
@pytest.mark.parametrize("chances", [(0.6, 0.05, 0.05, 0.3), (0.3, 0.3, 0.1, 0.3)])
def test_the_difference_of_shares_is_held_as_often_as_it_says(
    items: int, chances: tuple[float, float, float, float]
) -> None:
    held, same, true = 0.0, chances[0] + chances[3], chances[1] - chances[2]
    for first in range(items + 1):
        for second in range(items + 1 - first):
            rest = items - first - second
            low, high = PairedShares(rest, first, second, 0).interval()
            counts = (first, second, rest)
            if low <= true <= high:
                held += float(multinomial.pmf(counts, items, (*chances[1:3], same)))
    assert 0.93 <= held <= 0.999  # few items that differ: on the safe side


def test_scores_are_paired_by_item() -> None:
    one, other = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0}, {"a": 1.0, "b": 1.0, "c": 0.0, "e": 0.0}
    assert paired_shares(one, other) == PairedShares(1, 1, 1, 0)
    assert paired_shares({"a": 0.5}, {"a": 1.0}) is None
    assert paired_shares({"a": 1.0}, {"b": 1.0}) is None
