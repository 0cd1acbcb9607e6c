"""Arms compared item by item: identities, and cases by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptbake.evaluate.statistics import Difference, paired_difference

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


@given(scores)
def test_an_arm_does_not_differ_from_itself(arm: dict[str, float]) -> None:
    interval = (0.0, 0.0) if len(arm) > 1 else None
    assert paired_difference(arm, arm) == Difference(0.0, interval, len(arm))


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
