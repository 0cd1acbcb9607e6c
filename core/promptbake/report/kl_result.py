"""The KL of the arms on held-out responses, as verify.json has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field

from promptbake.documents.typed import OwnDocument
from promptbake.evaluate.intervals import gap_closed_interval, per_token_interval
from promptbake.evaluate.statistics import gap_closed
from promptbake.types import ARMS, Arm, Datum, KLByConversation

Interval = tuple[float, float]
Kind = Literal["full", "top_k_bucket"]
POSITIONS = ((0, 8), (8, 32), (32, None))  # of a response, in tokens


class HeldOut(OwnDocument):
    """What the KL was measured on."""

    queries: int
    tokens: int = Field(description="response tokens")

    @classmethod
    def of(cls, datums: Sequence[Datum]) -> HeldOut:
        """How many queries and response tokens these are."""
        queries = len({datum.query_id for datum in datums})
        return cls(queries=queries, tokens=sum(datum.n_response for datum in datums))


class PositionKL(OwnDocument):
    """KL(prompted || arm) at some of the positions of a response, in nats/token."""

    first: int = Field(description="the first position, from 0")
    end: int | None = Field(None, description="the first position behind them; none for the rest")
    tokens: int
    base: float
    baked: float
    gap_closed: float | None = Field(None, description="none where base is 0")


class TokenShare(OwnDocument):
    """A share of the response tokens."""

    share: float
    ci95: Interval | None = Field(None, description="over the queries")


class KLResult(OwnDocument):
    """KL(prompted || arm) on held-out responses, in `unit`."""

    unit: Literal["nats/token"] = "nats/token"
    kind: Kind = Field(
        description="summed over the full vocabulary, or over the top K and a bucket"
    )
    base: float
    baked: float
    reprompted: float
    gap_closed: float = Field(description="1 - baked / base")
    gap_closed_ci95: Interval | None = Field(
        None, description="jackknife over the queries; none where one query decides"
    )
    gap_closed_ci90: Interval | None = Field(
        None, description="its lower end is the one-sided test at 5 % against a margin"
    )
    ci95: dict[Arm, Interval] = Field(
        default_factory=dict, description="of each arm's nats/token, over the queries"
    )
    by_position: list[PositionKL] = Field(
        default_factory=list, description="along the response, from its beginning"
    )
    top_1_agreement: dict[Arm, TokenShare] = Field(
        default_factory=dict,
        description="tokens where arm and prompted model have the same likeliest one",
    )
    entropy: dict[Arm, float] = Field(default_factory=dict, description="nats/token")

    @classmethod
    def of(
        cls, kind: Kind, arms: Mapping[Arm, KLByConversation], groups: Sequence[str]
    ) -> KLResult:
        """The numbers with their intervals.

        Args:
            kind: What the KL was summed over.
            arms: What was measured of base, baked and re-prompted.
            groups: The query of each conversation.
        """
        base, baked = arms["base"], arms["baked"]
        intervals = {
            arm: per_token_interval(each.nats, each.tokens, groups) for arm, each in arms.items()
        }
        return cls(
            kind=kind,
            base=base.per_token,
            baked=baked.per_token,
            reprompted=arms["reprompted"].per_token,
            gap_closed=gap_closed(base, baked),
            gap_closed_ci95=gap_closed_interval(base, baked, groups, 0.95),
            gap_closed_ci90=gap_closed_interval(base, baked, groups, 0.9),
            ci95={arm: each for arm, each in intervals.items() if each is not None},
            by_position=list(_by_position(base, baked)),
            top_1_agreement={
                arm: TokenShare(
                    share=sum(each.top_1) / sum(each.tokens),
                    ci95=per_token_interval(each.top_1, each.tokens, groups),
                )
                for arm, each in arms.items()
                if each.top_1
            },
            entropy=_entropies(arms),
        )


class TargetKL(OwnDocument):
    """KL(prompted || arm) on one target's held-out responses, in nats/token."""

    base: float
    baked: float
    reprompted: float
    gap_closed: float | None = Field(
        None, description="none where base is 0: nothing was to change"
    )

    @classmethod
    def of(cls, arms: Mapping[Arm, KLByConversation]) -> TargetKL:
        """What was measured of base, baked and re-prompted."""
        closed = gap_closed(arms["base"], arms["baked"]) if arms["base"].per_token else None
        return cls(**{arm: each.per_token for arm, each in arms.items()}, gap_closed=closed)


def _by_position(base: KLByConversation, baked: KLByConversation) -> Iterator[PositionKL]:
    """Where every token's KL is known, and some response is that long."""
    for first, end in POSITIONS:
        before, after = (
            [value for values in each.by_token for value in values[first:end]]
            for each in (base, baked)
        )
        if before and len(before) == len(after):
            yield PositionKL(
                first=first,
                end=end,
                tokens=len(before),
                base=sum(before) / len(before),
                baked=sum(after) / len(after),
                gap_closed=1 - sum(after) / sum(before) if sum(before) > 0 else None,
            )


def _entropies(arms: Mapping[Arm, KLByConversation]) -> dict[Arm, float]:
    """By arm, the prompted model's among them."""
    known = {arm: sum(e.entropy) / sum(e.tokens) for arm, e in arms.items() if e.entropy}
    base = arms["base"]
    if base.prompted_entropy:
        known["prompted"] = sum(base.prompted_entropy) / sum(base.tokens)
    return {arm: known[arm] for arm in ARMS if arm in known}
