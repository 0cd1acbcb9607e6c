"""After data, and after a verify that failed: what the numbers mean, and what to do next."""

from __future__ import annotations

import pytest
from verify_example import RESULT

from promptbake.report.diagnosis import describe_base_kl, describe_data, explain_failure
from promptbake.types import Conversation, Message


def conversations(total: int, complete: int) -> list[Conversation]:
    """Two of each query, of which the first are complete."""
    return [
        Conversation(
            f"c{i}",
            f"q{i // 2}",
            (Message("user", f"Q{i}?"), Message("assistant", f"A{i} " * 99)),
            i < complete,
        )
        for i in range(total)
    ]


@pytest.mark.parametrize(("complete", "advice"), [(2, "hardly learns to stop: raise it"), (8, "")])
def test_after_data_three_answers_and_the_share_of_complete_ones(
    complete: int, advice: str
) -> None:
    *answers, share = describe_data(conversations(10, complete), max_tokens=48)
    assert [line for line in answers if line.startswith("  > ")] == [
        "  > Q0?",
        "  > Q2?",
        "  > Q4?",
    ]
    assert all(len(line) < 220 for line in answers)
    assert share.startswith(f"{complete} of 10 responses are complete ({complete}0%)")
    assert advice in share
    assert ("data.max_tokens = 48" in share) == bool(advice)


@pytest.mark.parametrize(
    ("base", "baked", "total", "complete", "expected"),
    [
        (0.128, 0.07, 70, 2, "this prompt barely changes this model (0.128 nats/token on held-out"),
        (0.5, 0.3, 12, 12, "12 conversations are few; next: promptbake data with more queries"),
        (0.5, 0.6, 70, 70, "training diverged; next: promptbake bake with a lower train.lr"),
        (0.5, 0.3, 70, 70, "(2 epochs on 70 conversations); next: promptbake bake --set train.epo"),
        (0.5, 0.3, 70, 2, "on 70 conversations, of which 2 are complete); next: promptbake bake"),
    ],
)
def test_a_failure_has_a_likely_cause_and_a_next_command(
    base: float, baked: float, total: int, complete: int, expected: str
) -> None:
    changes = {"base": base, "baked": baked, "gap_closed_ci95": (-0.1, 0.9)}
    result = RESULT.model_copy(update={"kl": RESULT.kl.model_copy(update=changes)})
    line = explain_failure(result, conversations(total, complete), epochs=2)
    assert line.startswith("likely cause: ")
    assert expected in line


def test_a_strong_prompt_is_said_to_be_one() -> None:
    assert describe_base_kl(0.55).startswith("the prompt changes this model by 0.550 nats/token")


@pytest.mark.parametrize(
    ("margin", "advice"),
    [("retention", "too much training; next: promptbake bake with a lower train.lr or fewer"),
     ("shift", "the control's prompt is much like this one")],
)  # fmt: skip
def test_a_failure_of_a_closed_gap_is_damage_or_a_control(margin: str, advice: str) -> None:
    criterion = RESULT.verdict.decided_by[0].model_copy(update={"margin": margin, "refuted": True})
    verdict = RESULT.verdict.model_copy(update={"decided_by": [criterion]})
    result = RESULT.model_copy(update={"verdict": verdict})
    assert explain_failure(result, [], epochs=2).startswith(f"likely cause: {advice}")
