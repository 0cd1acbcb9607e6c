"""What data, base KL and a failed verify mean, and what to do next: lines for a person."""

from __future__ import annotations

from collections.abc import Sequence

from promptbake.report.verify_result import VerifyResult
from promptbake.types import Conversation

WEAK_PROMPT = 0.2  # nats/token; a support persona that failed had 0.128, Yoda has 0.5
FEW_COMPLETE = 0.5
FEW_CONVERSATIONS = 30
SHOWN_RESPONSES = 3
SHOWN_CHARACTERS = 200


def describe_data(conversations: Sequence[Conversation], max_tokens: int) -> list[str]:
    """The first responses, how many are complete, and what that means."""
    by_query = {each.query_id: each for each in reversed(conversations)}
    first = list(reversed(by_query.values()))[:SHOWN_RESPONSES]
    lines = [
        line
        for each in first
        for line in (f"  > {_short(each.messages[0].content)}", f"    {_short(each.response)}")
    ]
    complete = sum(each.complete for each in conversations)
    total = len(conversations)
    share = f"{complete} of {total} responses are complete ({complete / total:.0%})"
    if complete < FEW_COMPLETE * total:
        share += (
            f"; the others were cut at data.max_tokens = {max_tokens}, so the baked model hardly "
            "learns to stop: raise it, or let the prompt ask for short answers"
        )
    return [*lines, share]


def describe_base_kl(nats: float) -> str:
    """What the distance of the bare model from the prompted one means for a bake."""
    if nats >= WEAK_PROMPT:
        return f"the prompt changes this model by {nats:.3f} nats/token on held-out queries"
    return (
        f"this prompt barely changes this model ({nats:.3f} nats/token on held-out queries), so "
        "there is little to bake: make the prompt more specific, ask what it is about "
        "(data.queries), or choose a larger model (model.name)"
    )


def explain_failure(result: VerifyResult, training: Sequence[Conversation], epochs: int) -> str:
    """The likely cause of a verdict that is `failed`, and the next command."""
    interval = result.kl.gap_closed_ci95
    if result.thresholds["kl.gap_closed"].passed and interval is not None and interval[0] > 0:
        return _explain_damage(result)
    complete = sum(each.complete for each in training)
    if result.kl.base < WEAK_PROMPT:
        return f"likely cause: {describe_base_kl(result.kl.base)}"
    if len(training) < FEW_CONVERSATIONS:
        return (
            f"likely cause: {len(training)} conversations are few; next: promptbake data with more "
            "queries (data.queries) or more data.temperatures, then bake and verify"
        )
    if result.kl.baked > result.kl.base:
        return (
            "likely cause: training diverged; next: promptbake bake with a lower train.lr, then "
            "verify"
        )
    cause = f"likely cause: too little training ({epochs} epochs on {len(training)} conversations"
    if complete < FEW_COMPLETE * len(training):
        cause += f", of which {complete} are complete"
    return f"{cause}); next: promptbake bake --set train.epochs={2 * epochs}, then verify"


def _explain_damage(result: VerifyResult) -> str:
    """The likely cause where the gap is closed."""
    if any(each.refuted and each.margin == "retention" for each in result.verdict.decided_by):
        return (
            "likely cause: too much training; next: promptbake bake with a lower train.lr or fewer "
            "train.epochs, then verify"
        )
    return (
        "likely cause: the control's prompt is much like this one, or the margin is too low to "
        "tell them apart; next: raise verify.margins.gap_closed"
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."
