"""A model whose distributions a test writes down: a token is a byte, and 0 ends a turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from promptbake import (
    Completion,
    CostEstimate,
    Message,
    Span,
    TeacherLogprobs,
    TokenIds,
    Usage,
    WorkItem,
    no_progress,
)

V = 256
END = 0
IMPOSSIBLE = -80.0  # nats
Distribution = Callable[[Span], Tensor]  # of a span: nats [V], the same at each position


def shares(**mass: float) -> Tensor:
    """Log-probabilities [V] of letters; the others are impossible."""
    row = torch.full((V,), IMPOSSIBLE)
    for letter, share in mass.items():
        row[ord(letter)] = torch.tensor(share).log()
    return row


def by_prompt(prompted: Tensor, bare: Tensor) -> Distribution:
    """One distribution behind a system prompt, another without."""
    return lambda span: prompted if span.tokens[0] == ord("S") else bare


class ByteRenderer:
    """S and the system prompt, or N; then the turns, each with a line break."""

    stop_ids = frozenset({END})

    def prompt(self, messages: Sequence[Message], system: str | None = None) -> TokenIds:
        head = "N" if system is None else f"S{system}"
        return tuple("\n".join([head, *(message.content for message in messages), ""]).encode())

    def response(self, text: str, complete: bool) -> TokenIds:
        return tuple(text.encode()) + (END,) * complete

    def text(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class ByteModel:
    """Says `reply`, which may depend on the prompt, and counts what it is asked for."""

    name, digest, warnings = "bytes", "0", ()
    renderer = ByteRenderer()

    def __init__(
        self,
        distribution: Distribution,
        reply: Callable[[str], str] = lambda prompt: "abc",
        *,
        full_vocabulary: bool = True,
        sample_batch: int | None = None,
        context_tokens: int = 10_000,
    ) -> None:
        self._distribution, self._reply = distribution, reply
        self.full_vocabulary, self.sample_batch = full_vocabulary, sample_batch
        self.context_tokens = context_tokens
        self.batches: list[list[str]] = []  # the prompts of each call
        self.scored = 0  # spans

    def sample(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperatures: Sequence[float],
        seeds: Sequence[int],
        progress: Callable[[float], None] = no_progress,
    ) -> Iterator[tuple[int, Completion]]:
        self.batches.append([bytes(prompt).decode() for prompt in prompts])
        for index, prompt in enumerate(self.batches[-1]):
            progress(1.0)
            whole = self._reply(prompt).encode()
            yield index, Completion(tuple(whole[:max_tokens]), len(whole) <= max_tokens)

    def logprobs(
        self, spans: Sequence[Span], ids: Sequence[Tensor] | None = None
    ) -> Iterator[Tensor]:
        for index, span in enumerate(spans):
            self.scored += 1
            rows = self._distribution(span).expand(span.n_response, V)
            yield rows if ids is None else rows.gather(1, ids[index])

    def top_k(
        self, spans: Sequence[Span], *, k: int, draws: int, seeds: Sequence[int]
    ) -> Iterator[tuple[int, TeacherLogprobs]]:
        for index, rows in reversed(list(enumerate(self.logprobs(spans)))):
            logprobs, ids = rows.topk(k)
            none = torch.empty(len(rows), draws)
            yield index, TeacherLogprobs(ids, logprobs, none.long(), none, none)

    def stream(self, *given: Any, **options: Any) -> Any:
        raise NotImplementedError

    def estimate_cost(self, work: WorkItem) -> CostEstimate:
        """A cent for each row, so that a test can count them."""
        usage = Usage(
            calls=len(work.rows) * work.times,
            input_tokens=sum(length for length, _ in work.rows) * work.times,
            dollars=0.01 * len(work.rows) * work.times,
        )
        return CostEstimate(usage, priced=True, seconds=1.0)
