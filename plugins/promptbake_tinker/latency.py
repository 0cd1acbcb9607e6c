"""How long a service takes, for the minutes in `promptbake plan`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from promptbake import SampleWork, TrainWork, WorkItem


@dataclass(frozen=True)
class LatencyModel:
    """Seconds that a service takes for each kind of request; None is unknown."""

    step: float | None
    call: float | None
    token: float | None  # sampled
    save: float | None = 0.0  # of a state

    def seconds(self, work: WorkItem, calls_in_flight: int) -> float | None:
        """How long the work takes with `calls_in_flight` calls at a time."""
        if self.step is None or self.call is None or self.token is None or self.save is None:
            return None
        if isinstance(work, TrainWork):
            passes = 2 if work.forward_first else 1
            return work.steps * self.step * passes + work.saves * self.save
        rounds = math.ceil(len(work.rows) * work.times / calls_in_flight)
        longest = (
            max((row[1] for row in work.rows), default=0) if isinstance(work, SampleWork) else 1
        )
        return rounds * (self.call + longest * self.token)


# A step that is queued in time takes one clock cycle of the service, about 10 s; the others are
# guesses: a state is taken for half a cycle.
HOSTED = LatencyModel(10.0, 2.0, 0.02, 5.0)
UNKNOWN = LatencyModel(None, None, None)
