"""`prompt_logprobs` as vLLM returns them: for each prompt token, its own entry and the top K's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptbake import BakeError
from promptbake_openai.answers import LogprobEntry, LogprobRow

MINUS_INFINITY = -9999.0  # nats: what vLLM returns in its place


@dataclass(frozen=True)
class TokenLogprob:
    """A token that an endpoint lists at a position."""

    token: int
    logprob: float  # nats
    rank: int  # 1 is the most likely
    text: str | None

    @classmethod
    def of(cls, token: int, entry: LogprobEntry) -> TokenLogprob:
        """The token with its entry; the rank is 1 where none is given."""
        nats = math.nan if entry.logprob is None else entry.logprob
        return cls(token, nats, entry.rank or 1, entry.decoded_token)

    @property
    def has_logprob(self) -> bool:
        """Whether it was scored."""
        return math.isfinite(self.logprob) and self.logprob > MINUS_INFINITY


@dataclass(frozen=True)
class PositionLogprobs:
    """One position: the text and log-probability of the prompt's own token, and all entries."""

    text: str
    logprob: float  # nats
    entries: tuple[TokenLogprob, ...]  # most likely first

    @classmethod
    def of(cls, token: int, row: LogprobRow | None, source: str) -> PositionLogprobs:
        """Read a mapping from token ids to entries.

        Args:
            token: The prompt's own, at this position.
            row: The mapping.
            source: The conversation and the endpoint, with which error messages begin.

        Raises:
            BakeError: It lacks the own token, a log-probability or a text.
        """
        if row is None or token not in row:
            raise BakeError(f"{source} does not score token {token} at the response's position")
        entries = [TokenLogprob.of(each, entry) for each, entry in row.items()]
        if not all(entry.has_logprob for entry in entries):
            raise BakeError(f"{source} returns no log-probability of a token beside token {token}")
        own = TokenLogprob.of(token, row[token])
        if not isinstance(own.text, str):
            raise BakeError(
                f"{source} returns no decoded_token, so that its tokenizer cannot be compared with "
                "the student's; vLLM returns it unless --skip-tokenizer-init is set"
            )
        entries.sort(key=lambda entry: -entry.logprob)
        return cls(own.text, own.logprob, tuple(entries))

    def top(self, k: int) -> list[tuple[int, float]]:
        """The K most likely, without an own token that is listed for its place in the prompt."""
        return [(entry.token, entry.logprob) for entry in self.entries if entry.rank <= k][:k]


def top_k_tensors(positions: Sequence[PositionLogprobs], k: int, url: str) -> tuple[Tensor, Tensor]:
    """The top K at each position: ids, int64 [N, K], and log-probabilities, float32 [N, K].

    Raises:
        BakeError: A position has fewer than K.
    """
    rows = [position.top(k) for position in positions]
    fewest = min(map(len, rows))
    if fewest < k:
        raise BakeError(
            f"teacher.top_k = {k}: {url} returns {fewest} log-probabilities at a position; lower it"
        )
    top = torch.tensor(rows, dtype=torch.float64)  # [N, K, 2]
    return top[..., 0].long(), top[..., 1].float()
