"""Whether the responses are what the teacher would sample, by their log-probabilities under it.

A response y at temperature T is drawn from p_T, which is proportional to p^(1/T). At each position

    d = -log p(y) - H(p_T, p)    with the cross-entropy H(p_T, p) = -sum over y of p_T(y) log p(y)

has the mean 0 given what came before, so the sum of d is a martingale: its variance is the sum of
the variances of -log p(y) under p_T, which are known, and no two positions need be independent.
Truncation (top_p, top_k, min_p), another temperature and greedy decoding make d negative; responses
of another model, or without the prompt, make it positive.

Of p the teacher's top K are known, and the mass of all others. So -log p(y) is replaced by a
function that needs no more: for any token outside the top K it is that of a token half as likely as
the K-th. At T = 1 the mean of d is still exactly 0. At a lower temperature the others' part of p_T
is estimated by the same token, which is rough where K is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from promptbake.distill.objective import rest
from promptbake.types import Datum, TeacherLogprobs

COOLEST, HOTTEST = 0.1, 1.0  # temperatures that are checked: the others' part is too rough beyond
SIGMAS = 5.0  # standard errors
LOWEST, HIGHEST = 0.93, 1.25  # of observed / expected; rounding and quantised weights stay within


@dataclass
class SamplingStatistics:
    """The responses of one temperature: nats, summed over their tokens."""

    tokens: int = 0
    observed: float = 0.0  # -log p(y), in effect
    expected: float = 0.0  # H(p_T, p)
    variance: float = 0.0  # of `observed`, in squared nats

    def add(self, datum: Datum, scores: TeacherLogprobs) -> None:
        """Add a conversation's response."""
        nats, drawn_with = outcomes(scores.logprobs.double(), datum.temperature)
        mean = (drawn_with * nats).sum(dim=1)
        self.tokens += datum.n_response
        self.observed += float(nats.gather(1, _outcome(datum, scores.ids)).sum())
        self.expected += float(mean.sum())
        self.variance += float(((drawn_with * nats.square()).sum(dim=1) - mean.square()).sum())

    @property
    def ratio(self) -> float:
        """Observed by expected: about 1 for honest samples."""
        return self.observed / self.expected if self.expected else math.nan

    @property
    def sigmas(self) -> float:
        """Standard errors by which the observed nats are above the expected ones."""
        return (self.observed - self.expected) / math.sqrt(max(self.variance, 1e-12))

    @property
    def is_off(self) -> bool:
        """Whether they are no samples of the teacher at this temperature."""
        return abs(self.sigmas) > SIGMAS and not LOWEST <= self.ratio <= HIGHEST

    def as_json(self) -> dict[str, float]:
        """For run.json: nats per token."""
        return {
            "tokens": self.tokens,
            "nll": round(self.observed / self.tokens, 4),
            "expected_nll": round(self.expected / self.tokens, 4),
            "standard_error": round(math.sqrt(max(self.variance, 0.0)) / self.tokens, 4),
        }


@dataclass
class SamplingCheck:
    """The responses of a run, by the temperature that they are labelled with."""

    by_temperature: dict[float, SamplingStatistics] = field(default_factory=dict)

    def add(self, datum: Datum, scores: TeacherLogprobs) -> None:
        """Add a conversation, unless its temperature cannot be checked."""
        if COOLEST <= datum.temperature <= HOTTEST:
            self.by_temperature.setdefault(datum.temperature, SamplingStatistics()).add(
                datum, scores
            )

    def as_json(self) -> dict[str, dict[str, float]]:
        """For run.json."""
        return {f"{heat:g}": each.as_json() for heat, each in sorted(self.by_temperature.items())}

    def warnings(self) -> Iterable[str]:
        """A line for each temperature whose responses are no samples at it."""
        for heat, each in sorted(self.by_temperature.items()):
            if each.is_off:
                numbers = each.as_json()
                why = (
                    "they were sampled with a truncation (top_p, top_k, min_p) or at a lower "
                    "temperature, which the server adds by itself: set both to neutral there"
                    if each.ratio < 1
                    else "another model, another prompt or a higher temperature gave them"
                )
                yield (
                    f"the responses at temperature {heat:g} are no samples of the teacher: "
                    f"{numbers['nll']:.2f} nats per token, where samples would have "
                    f"{numbers['expected_nll']:.2f} (standard error "
                    f"{numbers['standard_error']:.2f}); {why}. The bake and its held-out "
                    "measurement are of those responses"
                )


def outcomes(logprobs: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The top K and one outcome for all others.

    Args:
        logprobs: The top K's [N, K], most likely first, in nats.
        temperature: T.

    Returns:
        -log p of each outcome's token, and its probability under p_T: [N, K + 1] both.
    """
    others = rest(logprobs)
    power = 1 / temperature
    typical = logprobs[:, -1:] - math.log(2)
    scaled = torch.cat([power * logprobs, others + (power - 1) * typical], dim=1)
    return -torch.cat([logprobs, typical], dim=1), scaled.softmax(dim=1)


def _outcome(datum: Datum, ids: Tensor) -> Tensor:
    """Which outcome each response token is, [N, 1]: its column in the top K, or K."""
    is_token = torch.tensor(datum.response_ids).unsqueeze(1) == ids
    column = is_token.int().argmax(dim=1, keepdim=True)
    return torch.where(is_token.any(dim=1, keepdim=True), column, ids.shape[1])
