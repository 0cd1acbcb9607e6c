"""Log-probabilities of given ids: sampling calls that the service accepts, or a forward pass.

The service bounds `len(prompt) * distinct ids` of a sampling call (tinker.SamplingClient.sample),
and does not say at what. A call that is refused is cut into two of half as many positions; where
that takes too many, a forward pass of a training client scores (N, K) targets at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import tinker
import torch
from torch import Tensor

from promptbake import Span, Usage
from promptbake_tinker import answers
from promptbake_tinker.base import Base
from promptbake_tinker.calls import Calls
from promptbake_tinker.datum_layout import wide_datum
from promptbake_tinker.service import RefusalError, is_refusal, no_logprobs, reason_of

MOST_PIECES = 8  # of a span: each reads the conversation again, mostly from the prefix cache

# Returns a training client with the weights that are to be scored.
OpenTraining = Callable[[], tinker.TrainingClient]


@dataclass(frozen=True, eq=False)
class Piece:
    """Some of a span's response positions: those from `start` to `stop`, of N."""

    index: int  # of the span
    span: Span
    ids: Tensor  # int64 [N, K]
    start: int
    stop: int

    @property
    def tokens(self) -> tuple[int, ...]:
        """The span up to the last of these positions."""
        return self.span.tokens[: len(self.span.tokens) - self.span.n_response + self.stop]

    @property
    def cost(self) -> int:
        """What the service bounds."""
        return len(self.tokens) * len(set(self.ids[self.start : self.stop].flatten().tolist()))

    def halves(self) -> tuple[Piece, Piece]:
        """The same positions in two."""
        middle = (self.start + self.stop) // 2
        first = Piece(self.index, self.span, self.ids, self.start, middle)
        return first, Piece(self.index, self.span, self.ids, middle, self.stop)


def score(
    base: Base,
    sampler: Callable[[], tinker.SamplingClient],
    training: OpenTraining | None,
    spans: Sequence[Span],
    ids: Sequence[Tensor],
) -> list[Tensor]:
    """Log-probabilities [N, K] of each span's ids, in their order.

    Args:
        base: The base model, which keeps what the service was found to accept.
        sampler: Opens the weights for sampling.
        training: Opens them for training, for a forward pass; None where they cannot be opened.
        spans: What is scored.
        ids: int64 [N, K] for each.

    Raises:
        BakeError: The service refuses both.
    """
    if not spans:
        return []
    if not base.scores_by_forward:
        try:
            return _by_sampling(base, sampler, spans, ids)
        except RefusalError:
            base.scores_by_forward = True
            if training is None:
                raise
    if training is None:
        raise RefusalError(
            f"{answers.describe(spans[0])}: {base.service.where} accepts fewer ids in a call than "
            "it takes, and no training state of these weights is known for a forward pass"
        )
    return _by_forward(base, training(), spans, ids)


def _by_sampling(
    base: Base,
    sampler: Callable[[], tinker.SamplingClient],
    spans: Sequence[Span],
    ids: Sequence[Tensor],
) -> list[Tensor]:
    wholes = [Piece(i, span, ids[i], 0, span.n_response) for i, span in enumerate(spans)]
    results = [torch.zeros(each.shape) for each in ids]
    while True:
        pieces = [part for whole in wholes for part in _cut(whole, base.most_cost)]
        largest = max(pieces, key=lambda piece: piece.cost)
        if largest.cost > base.accepted_cost:  # it goes alone, to find out
            ((_, scored),) = _send(base, sampler(), [largest])
            if isinstance(scored, str):
                base.most_cost = largest.cost // 2
                continue
            base.accepted_cost = largest.cost
            results[largest.index][largest.start : largest.stop] = scored
            pieces.remove(largest)
        for index, scored in _send(base, sampler(), pieces):
            piece = pieces[index]
            if isinstance(scored, str):
                raise RefusalError(f"{answers.describe(piece.span)}: refused: {scored}")
            results[piece.index][piece.start : piece.stop] = scored
        return results


def _cut(piece: Piece, most_cost: float) -> list[Piece]:
    """The piece in parts that each cost so much at most. Raises RefusalError for too many."""
    parts = [piece]
    while any(part.cost > most_cost for part in parts):
        longest = max(parts, key=lambda part: part.cost)
        if longest.stop - longest.start == 1 or len(parts) == MOST_PIECES:
            raise RefusalError(
                f"{answers.describe(piece.span)}: {len(piece.tokens)} tokens with "
                f"{piece.ids.shape[1]} ids at each of {piece.stop - piece.start} positions are "
                "more than the service accepts in a few calls"
            )
        parts.remove(longest)
        parts += longest.halves()
    return parts


def _send(
    base: Base, sampler: tinker.SamplingClient, pieces: Sequence[Piece]
) -> Iterator[tuple[int, Tensor | str]]:
    """Each piece's index with its log-probabilities, or with the reason why it is refused."""

    def submit(index: int) -> Any:
        piece = pieces[index]
        tokens, n = piece.tokens, piece.stop - piece.start
        targets = torch.full((len(tokens) - 1, piece.ids.shape[1]), -1, dtype=torch.long)
        targets[-n:] = piece.ids[piece.start : piece.stop]
        return OrRefusal(
            sampler.sample(
                tinker.ModelInput.from_ints(list(tokens)),
                1,
                tinker.SamplingParams(max_tokens=1, seed=0),
                include_prompt_logprobs=True,
                target_prompt_logprobs=tinker.TensorData.from_torch_sparse(targets, pad_value=-1),
                prompt_logprobs_last_n=n,
            )
        )

    def read(index: int, answer: Any) -> Tensor | str:
        piece = pieces[index]
        if isinstance(answer, str):
            calls.release(index)
            return answer
        calls.commit(index, answer, sampled=1)
        if answer.target_prompt_logprobs is None:
            raise answers.bad_field("target_prompt_logprobs", piece.span)
        scored: Tensor = answer.target_prompt_logprobs.to_torch().float()
        if len(scored) != len(piece.tokens) - 1:
            raise answers.bad_field("target_prompt_logprobs", piece.span, scored)
        return scored[-(piece.stop - piece.start) :]

    calls = Calls(base, "logprobs", [(len(piece.tokens), 1) for piece in pieces])
    return calls.run(submit, read, lambda index: answers.describe(pieces[index].span))


def _by_forward(
    base: Base, client: tinker.TrainingClient, spans: Sequence[Span], ids: Sequence[Tensor]
) -> list[Tensor]:
    """One forward pass over (N, K) targets."""
    data = [
        wide_datum(span.tokens, each, torch.zeros(each.shape))
        for span, each in zip(spans, ids, strict=True)
    ]
    what = f"a forward pass over {len(spans)} conversations"
    output = forward(base, client, data, "logprobs", what)
    if not all("logprobs" in each for each in output.loss_fn_outputs):
        raise no_logprobs(what)
    scored = [each["logprobs"].to_torch().float() for each in output.loss_fn_outputs]
    return [row[-span.n_response :] for row, span in zip(scored, spans, strict=True)]


def forward(
    base: Base, client: tinker.TrainingClient, data: Sequence[tinker.Datum], work: str, what: str
) -> tinker.ForwardBackwardOutput:
    """A forward pass, reserved in the budget under the name `work` as prefill."""
    usage = base.priced(Usage(1, input_tokens=sum(datum.model_input.length for datum in data)))
    reservation = base.budget.reserve(work, usage)
    try:
        future = client.forward(list(data), "cross_entropy")
        output: tinker.ForwardBackwardOutput = base.service.wait(future, what)
    except RefusalError:
        reservation.commit(Usage())  # it is not billed
        raise
    reservation.commit(usage)
    return output


class OrRefusal:
    """An SDK future whose refusal is a result: the reason, as text."""

    def __init__(self, sent: Any) -> None:
        self._outcome: Future[Any] = Future()
        sent.future().add_done_callback(self._arrived)

    def future(self) -> Future[Any]:
        """As the SDK's."""
        return self._outcome

    def _arrived(self, inner: Future[Any]) -> None:
        error = inner.exception()
        if error is None:
            self._outcome.set_result(inner.result())
        elif is_refusal(error):
            self._outcome.set_result(reason_of(error))
        else:
            self._outcome.set_exception(error)
