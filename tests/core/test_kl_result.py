"""The numbers of the KL: by arm, along the response, with agreement and entropy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from promptbake.report.kl_result import KLResult, TargetKL
from promptbake.types import Arm, KLByConversation

GROUPS = ["a", "a", "b"]


def arm(nats_a_token: float, top_1: int, entropy: float) -> KLByConversation:
    """Three responses of 4, 10 and 40 tokens; the first token of each has twice the KL."""
    lengths = (4, 10, 40)
    by_token = tuple((2 * nats_a_token, *[nats_a_token] * (n - 1)) for n in lengths)
    return KLByConversation(
        tuple(map(sum, by_token)),
        lengths,
        by_token,
        tuple(n - top_1 for n in lengths),
        tuple(entropy * n for n in lengths),
        tuple(1.5 * n for n in lengths),
    )


def arms() -> dict[Arm, KLByConversation]:
    return {"base": arm(0.5, 4, 2.0), "baked": arm(0.1, 1, 1.6), "reprompted": arm(0.2, 2, 1.4)}


def test_the_kl_along_the_response() -> None:
    result = KLResult.of("full", arms(), GROUPS)
    assert result.base == pytest.approx(0.5 * 57 / 54)
    assert result.gap_closed == pytest.approx(0.8)
    spans = [(each.first, each.end, each.tokens) for each in result.by_position]
    assert spans == [(0, 8, 20), (8, 32, 26), (32, None, 8)]
    assert result.by_position[0].base == pytest.approx(0.5 * 23 / 20)
    assert [each.baked for each in result.by_position[1:]] == pytest.approx([0.1, 0.1])
    assert [each.gap_closed for each in result.by_position] == pytest.approx([0.8] * 3)


def test_agreement_and_entropy_of_each_arm() -> None:
    result = KLResult.of("full", arms(), GROUPS)
    shares = {arm: each.share for arm, each in result.top_1_agreement.items()}
    assert shares == pytest.approx({"base": 42 / 54, "baked": 51 / 54, "reprompted": 48 / 54})
    interval = result.top_1_agreement["baked"].ci95
    assert interval
    assert interval[0] < 51 / 54 < interval[1]
    entropies = {"base": 2.0, "prompted": 1.5, "baked": 1.6, "reprompted": 1.4}
    assert result.entropy == pytest.approx(entropies)
    assert result.ci95.keys() == {"base", "baked", "reprompted"}


def test_without_the_whole_vocabulary_and_the_tokens_they_are_left_out() -> None:
    bare = {
        name: replace(each, by_token=(), top_1=(), entropy=(), prompted_entropy=())
        for name, each in arms().items()
    }
    result = KLResult.of("top_k_bucket", bare, GROUPS)
    assert result.by_position == []
    assert result.top_1_agreement == result.entropy == {}
    assert KLResult.of("full", bare, ["a"] * 3).gap_closed_ci95 is None


def test_a_target_that_changes_nothing_has_no_gap() -> None:
    same = arms() | {"base": arm(0.0, 0, 1.5)}
    assert TargetKL.of(same).gap_closed is None
    assert TargetKL.of(arms()).gap_closed == pytest.approx(0.8)
