"""What is decoded column by column: the rows' tokens, and the scores of those tokens' positions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from promptbake import Completion, TeacherLogprobs, tail_importance_weights
from promptbake_torch.random_draws import draw_outside_top, row_parts, tail_uniform


@dataclass(frozen=True, eq=False)
class Column:
    """The next token of each row, and the logits [B, V] that it was chosen by."""

    step: int
    rows: Sequence[int]
    tokens: Sequence[int]
    logits: Tensor

    def of(self, wanted: Collection[int]) -> Column:
        """The column of the wanted rows alone."""
        if len(wanted) == len(self.rows):
            return self
        kept = [place for place, row in enumerate(self.rows) if row in wanted]
        return Column(
            self.step,
            [self.rows[place] for place in kept],
            [self.tokens[place] for place in kept],
            self.logits[torch.tensor(kept, device=self.logits.device)],
        )

    def ended(self, stop_ids: Collection[int]) -> set[int]:
        """The rows whose token ends the turn."""
        pairs = zip(self.rows, self.tokens, strict=True)
        return {row for row, token in pairs if token in stop_ids}


class Responses:
    """The responses of a batch, as they grow."""

    def __init__(self, n_rows: int, stop_ids: Collection[int]) -> None:
        self._stop_ids = stop_ids
        self._tokens: list[list[int]] = [[] for _ in range(n_rows)]
        self._ended: set[int] = set()

    def growing(self, columns: Iterable[Column]) -> Iterator[Column]:
        """The columns, each once its tokens are appended to their rows, or have ended them."""
        for column in columns:
            self._ended |= column.ended(self._stop_ids)
            for row, token in zip(column.rows, column.tokens, strict=True):
                if row not in self._ended:
                    self._tokens[row].append(token)
            yield column

    @property
    def completions(self) -> Iterator[Completion]:
        """Each row's response."""
        for row, tokens in enumerate(self._tokens):
            yield Completion(tuple(tokens), complete=row in self._ended)


class ColumnScores:
    """The top K and the draws at each row's positions, a column at a time."""

    def __init__(self, seeds: Sequence[int], max_tokens: int, k: int, draws: int) -> None:
        self._k = k
        self._uniform_BLM = torch.stack([tail_uniform(seed, max_tokens, draws) for seed in seeds])
        self._columns: list[tuple[dict[int, int], TeacherLogprobs]] = []

    def add(self, column: Column) -> None:
        """Score the rows' distributions at this position."""
        logits, uniform_BM = column.logits, self._uniform_BLM[column.rows, column.step]
        parts = [
            top_k_and_draws(logits[part].log_softmax(dim=1).cpu(), self._k, uniform_BM[part])
            for part in row_parts(logits)
        ]
        scores = TeacherLogprobs(
            *(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(parts[0]))
        )
        places = {row: place for place, row in enumerate(column.rows)}
        self._columns.append((places, scores))

    def of(self, row: int) -> TeacherLogprobs:
        """One row's, at all its positions."""
        mine = [(places[row], scores) for places, scores in self._columns if row in places]
        return TeacherLogprobs(
            torch.stack([scores.ids[place] for place, scores in mine]),
            torch.stack([scores.logprobs[place] for place, scores in mine]),
            torch.stack([scores.drawn_ids[place] for place, scores in mine]),
            torch.stack([scores.drawn_logprobs[place] for place, scores in mine]),
            torch.stack([scores.drawn_importance_weights[place] for place, scores in mine]),
        )


def top_k_and_draws(logprobs: Tensor, k: int, uniform_NM: Tensor) -> TeacherLogprobs:
    """The K most likely tokens of each of N distributions [N, V], and M draws from the rest."""
    top = logprobs.topk(min(k, logprobs.shape[1]), dim=1)
    drawn = draw_outside_top(logprobs, top.indices, uniform_NM)
    drawn_logprobs = logprobs.gather(1, drawn)
    weights = tail_importance_weights(top.values, drawn_logprobs)
    return TeacherLogprobs(top.indices, top.values, drawn, drawn_logprobs, weights)
