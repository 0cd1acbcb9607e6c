"""The KL of each held-out query, as verify.json has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from promptbake.documents.typed import OwnDocument
from promptbake.evaluate.intervals import sums_by_group
from promptbake.types import Arm, Conversation, KLByConversation


class QueryKL(OwnDocument):
    """KL(prompted || arm) on the responses to one held-out query, in nats/token."""

    id: str
    question: str = Field(description="the user's last turn")
    tokens: int = Field(description="response tokens")
    base: float
    baked: float
    reprompted: float


def questions(conversations: Sequence[Conversation]) -> dict[str, str]:
    """The user's last turn, by query."""
    return {
        each.query_id: [turn.content for turn in each.messages if turn.role == "user"][-1]
        for each in conversations
    }


def by_query(
    queries: Sequence[str], asked: Mapping[str, str], arms: Mapping[Arm, KLByConversation]
) -> list[QueryKL]:
    """The held-out queries in their order; the responses to one query count as one.

    Args:
        queries: The query of each conversation.
        asked: The question of each query.
        arms: The KL of base, baked and re-prompted.
    """
    sums = {arm: sums_by_group(queries, each.nats, each.tokens) for arm, each in arms.items()}
    return [
        QueryKL(
            id=query,
            question=asked[query],
            tokens=round(sums["base"][1][row]),
            **{arm: nats[row] / tokens[row] for arm, (nats, tokens) in sums.items()},
        )
        for row, query in enumerate(dict.fromkeys(queries))
    ]
