"""The KL of each held-out query, as verify.json has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from promptbake.documents.typed import OwnDocument
from promptbake.evaluate.intervals import sums_by_group
from promptbake.types import Arm, Conversation, Datum, KLByConversation


class QueryKL(OwnDocument):
    """KL(prompted || arm) on the responses to one held-out query, in nats/token."""

    id: str
    question: str = Field(description="the user's last turn")
    tokens: int = Field(description="response tokens")
    base: float
    baked: float
    reprompted: float


def by_query(
    conversations: Sequence[Conversation],
    datums: Sequence[Datum],
    arms: Mapping[Arm, KLByConversation],
) -> list[QueryKL]:
    """The held-out queries in their order; the responses to one query count as one."""
    groups = [datum.query_id for datum in datums]
    questions = {
        each.query_id: [m.content for m in each.messages if m.role == "user"][-1]
        for each in conversations
    }
    sums = {arm: sums_by_group(groups, each.nats, each.tokens) for arm, each in arms.items()}
    return [
        QueryKL(
            id=query,
            question=questions[query],
            tokens=round(sums["base"][1][row]),
            **{arm: nats[row] / tokens[row] for arm, (nats, tokens) in sums.items()},
        )
        for row, query in enumerate(dict.fromkeys(groups))
    ]
