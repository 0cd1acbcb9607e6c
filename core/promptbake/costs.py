"""What work costs: usage, estimates, and the budget that reserves money before work is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class Usage:
    """What a service is asked for and bills: calls, tokens by kind, dollars."""

    calls: int = 0
    input_tokens: int = 0  # read
    cached_input_tokens: int = 0  # read again, from the service's prefix cache
    output_tokens: int = 0  # sampled
    train_tokens: int = 0  # of one forward and one backward pass
    dollars: float = 0.0
    unpriced_calls: int = 0  # of `calls`, those whose price is not known

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:  # nor NaN, which would defeat a budget
                raise ValueError(f"{name} = {value}: expected a finite number of 0 or more")

    def __add__(self, other: Usage) -> Usage:
        mine, others = vars(self), vars(other)
        return Usage(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class SampleWork:
    """Responses to sample. A row: tokens of the prompt, and the most tokens of the response."""

    kind: ClassVar[str] = "sample"
    rows: tuple[tuple[int, int], ...]
    shared: int = 0  # tokens that all rows begin with
    times: int = 1  # how often all of it is done


@dataclass(frozen=True)
class TopKWork:
    """Spans to score by the teacher. A row: tokens of the span, and tokens of its response."""

    kind: ClassVar[str] = "top_k"
    rows: tuple[tuple[int, int], ...]
    shared: int = 0  # tokens that all rows begin with
    times: int = 1  # how often all of it is done
    draws: int = 0  # from the tail, at each position


@dataclass(frozen=True)
class LogprobsWork:
    """Spans to score. A row: tokens of the span, and tokens of its response."""

    kind: ClassVar[str] = "logprobs"
    rows: tuple[tuple[int, int], ...]
    shared: int = 0  # tokens that all rows begin with
    times: int = 1  # how often all of it is done


@dataclass(frozen=True)
class TrainWork:
    """Conversations to train on. A row: tokens of the sequence, and tokens of its response."""

    kind: ClassVar[str] = "train"
    rows: tuple[tuple[int, int], ...]
    shared: int = 0  # tokens that all rows begin with
    times: int = 1  # epochs
    steps: int = 0  # optimizer steps in all
    support: int = 1  # C, the token ids that the loss is evaluated on at each position
    forward_first: bool = False  # whether the loss takes a forward pass before its gradient
    saves: int = 0  # states to resume from that are saved


WorkItem = SampleWork | TopKWork | LogprobsWork | TrainWork


@dataclass(frozen=True)
class CostEstimate:
    """What work is expected to cost. None is unknown."""

    usage: Usage
    priced: bool  # whether `usage.dollars` is known
    seconds: float | None
    source: str = ""  # of the prices, with their date
    memory_bytes: float | None = None  # the most that this machine needs for it at a time

    def __add__(self, other: CostEstimate) -> CostEstimate:
        known = self.seconds is not None and other.seconds is not None
        return CostEstimate(
            self.usage + other.usage,
            self.priced and other.priced,
            (self.seconds or 0.0) + (other.seconds or 0.0) if known else None,
            self.source or other.source,
            max(each or 0.0 for each in (self.memory_bytes, other.memory_bytes)) or None,
        )


NO_COST = CostEstimate(Usage(), priced=True, seconds=0.0)


class Reservation(Protocol):
    """Money that is reserved for work that has been sent."""

    def commit(self, usage: Usage) -> None:
        """Replace the reservation by what the work cost; `Usage()` where it was not billed."""
        ...


class Budget(Protocol):
    """What a run may spend, and what it has spent."""

    @property
    def capped(self) -> bool:
        """Whether there is a cap, so that a price must be known."""
        ...

    def reserve(self, what: str, usage: Usage) -> Reservation:
        """Reserve the most that work may cost, before it is sent.

        Args:
            what: The kind of work: a `WorkItem.kind`, or an evaluator's name.
            usage: The most that it may come to, in dollars and tokens.

        Returns:
            The reservation. One that is never committed counts as spent.

        Raises:
            BudgetError: The cap would be passed.
        """
        ...


class NoBudget:
    """Reserves nothing and keeps no record: for work outside a run."""

    capped = False

    def reserve(self, what: str, usage: Usage) -> NoBudget:
        """Nothing is reserved."""
        return self

    def commit(self, usage: Usage) -> None:
        """Nothing is recorded."""
