"""Batches on policy, and a loss that is evaluated on the student's own top tokens."""

from __future__ import annotations

import pytest
from small_bakes import PIRATE, job

import promptbake
from promptbake import BakeError, BatchContext, BatchSource


def on_policy(context: BatchContext) -> BatchSource:
    from promptbake_spikes.on_policy import OnPolicy

    return OnPolicy(context)


@pytest.mark.parametrize("profile", ["mock", "tinker-local"])
@pytest.mark.parametrize("loss", ["forward_kl", "student_reverse_kl"])
def test_the_student_writes_and_the_teacher_scores(profile: str, loss: str) -> None:
    given = job(profile, train__loss=loss)
    promptbake.data(PIRATE, **given)
    promptbake.bake(PIRATE, batches=on_policy, **given)
    assert promptbake.verify(PIRATE, **given).gap_closed > 0.2


def test_stored_conversations_have_no_tokens_of_the_student() -> None:
    given = job("mock", train__loss="student_reverse_kl")
    promptbake.data(PIRATE, **given)
    with pytest.raises(BakeError, match="it needs a source of batches on policy"):
        promptbake.bake(PIRATE, **given)
