"""What is wrong with a teacher's numbers, so that a failing test can name the mistake."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from promptbake.types import TeacherLogprobs

SMALL = 0.05  # nats: what may be rounding
ROUGHLY = 0.02  # nats: a mistake fits where it explains every number this well
CHANGED = 0.05  # share of the draws that rounding may change, and more with the tolerance
STANDARD_ERRORS = 5.0


def diagnose(logprobs: Tensor, ids: Tensor, whole: Tensor, tolerance: float) -> str:
    """What is wrong with log-probabilities [N, C] of `ids`, given all of them [N, V], in nats.

    Empty where they agree within `tolerance` nats.
    """
    expected = at(whole, ids)
    off = (logprobs - expected).abs()
    if not off.numel() or bool((off <= tolerance).all()):
        return ""
    row, column = divmod(int(off.argmax()), off.shape[1])
    agree = int((off <= tolerance).all(dim=1).sum())
    likely = next(
        (
            text
            for text, part, explained in _mistakes(logprobs, ids, whole)
            if bool(((part - explained).abs() < ROUGHLY).all())
        ),
        f"{agree} of {len(logprobs)} positions agree"
        + ("" if agree else ", as with another model than the reference's, or another context"),
    )
    return (
        f"token {int(ids[row, column])} at position {row} has {float(logprobs[row, column]):.4f} "
        f"where {float(expected[row, column]):.4f} nats are expected: {likely}"
    )


def best_match(result: TeacherLogprobs, references: Sequence[Tensor]) -> tuple[int, list[float]]:
    """Which of the distributions [N, V] a result fits best, and the distance to each, in nats."""
    off = [float((result.logprobs - at(each, result.ids)).abs().max()) for each in references]
    return off.index(min(off)), off


def at(whole: Tensor, ids: Tensor) -> Tensor:
    """The log-probabilities [N, C] of `ids`, of all of them [N, V]."""
    entries = whole.shape[1]
    assert not ids.numel() or 0 <= int(ids.min()) <= int(ids.max()) < entries, (
        f"ids go from {int(ids.min())} to {int(ids.max())} and the vocabulary has {entries} "
        "entries: look for another tokenizer, and for padding"
    )
    return whole.gather(1, ids)


def difference(one: TeacherLogprobs, other: TeacherLogprobs, tolerance: float) -> str:
    """How two results for one span differ, but for rounding; empty where they do not."""
    if one.logprobs.shape != other.logprobs.shape or one.drawn_ids.shape != other.drawn_ids.shape:
        return "the shapes differ"
    off = float((one.logprobs - other.logprobs).abs().max())
    if not off <= tolerance:
        return f"log-probabilities differ by up to {off:.4g} nats"
    if (share := changed(one, other)) > CHANGED + 2 * tolerance:
        return f"{share:.0%} of the draws are others"
    ratio = one.drawn_importance_weights / other.drawn_importance_weights
    ratio = ratio[one.drawn_ids == other.drawn_ids].log().nan_to_num(nan=0.0)  # 0 / 0
    if ratio.numel() and not float(ratio.abs().max()) <= 0.01 + 10 * tolerance:
        return f"a draw's importance weight changes by a factor of {float(ratio.abs().max().exp())}"
    return ""


def changed(one: TeacherLogprobs, other: TeacherLogprobs) -> float:
    """The share of the draws that differ."""
    differ = one.drawn_ids != other.drawn_ids
    return float(differ.float().mean()) if differ.numel() else 0.0


def bias(results: Sequence[TeacherLogprobs], whole: Tensor, tolerance: float) -> str:
    """What the draws for one span, with many seeds, get wrong about the tail; empty if nothing.

    Over the seeds, the sum of `importance weight * f` over the draws must be the sum of f over the
    tail. Tested for probabilities: of all tokens, of the likelier ones, and of those with an even
    id.
    """
    tail = whole.exp().scatter(1, results[0].ids, 0.0)  # [N, V]
    mass = float(tail.sum(dim=1).mean())
    order = tail.argsort(dim=1, descending=True)
    before = tail.gather(1, order).cumsum(dim=1) < tail.sum(dim=1, keepdim=True) / 2
    likelier = torch.zeros_like(tail).scatter(1, order, before.float())
    even = (torch.arange(tail.shape[1]) % 2 == 0).float().expand_as(tail)
    parts = {"": torch.ones_like(tail), "'s likelier half": likelier, "'s even token ids": even}
    for part, chosen in parts.items():
        values = whole.exp() * chosen
        exact = float((tail * chosen).sum(dim=1).mean())
        estimates = torch.stack([_estimate(result, values) for result in results])
        error = float(estimates.std() / len(estimates) ** 0.5)
        mean = float(estimates.mean())
        rounding = exact * tolerance * (1 + 1 / mass)  # of the probabilities, and of the tail's
        if not abs(mean - exact) <= STANDARD_ERRORS * error + rounding:
            return (
                f"they give the tail{part} a probability of {mean:.4f}, and it is {exact:.4f} "
                f"(standard error {error:.4f}): a weight is 1 / (M * the probability that the "
                "token was drawn with), and draws are from the tail alone, with replacement"
            )
    return ""


def _estimate(result: TeacherLogprobs, values: Tensor) -> Tensor:
    return (result.drawn_importance_weights * at(values, result.drawn_ids)).sum(dim=1).mean()


def _mistakes(logprobs: Tensor, ids: Tensor, whole: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each mistake, with what the teacher gave, and what it would give if it made the mistake."""
    expected = at(whole, ids)
    if float((logprobs - expected).abs().max()) < SMALL:
        yield "if that is rounding, set `tolerance`, in nats", logprobs, logprobs
    yield "these are bits, so multiply by ln 2", logprobs, expected / math.log(2)
    yield "these are probabilities, so take the logarithm", logprobs, expected.exp()
    yield "the sign is turned", logprobs, -expected
    if len(logprobs) > 1:
        yield (
            "each row is the next position's; the row that predicts a token is the one before it",
            logprobs[:-1],
            at(whole[1:], ids[:-1]),
        )
        yield "each row is that of the position before", logprobs[1:], at(whole[:-1], ids[1:])
    if logprobs.shape[1] < 3:
        return
    yield (
        "each row is renormalised over its columns; take log_softmax over the whole vocabulary",
        logprobs,
        expected.log_softmax(dim=1),
    )
    shift = (logprobs - expected).mean(dim=1, keepdim=True)
    yield (
        f"each row is off by one number, {float(shift.mean()):.3f} on average; look for logits "
        "without log_softmax, and for probabilities given that a token is in the tail",
        logprobs,
        expected + shift,
    )
    temperature = _temperature(logprobs, expected)
    if temperature > 0:
        yield (
            f"this is the distribution at temperature {temperature:.2f}; a teacher's is at 1, "
            "whatever the response was sampled at",
            logprobs,
            at((whole / temperature).log_softmax(dim=1), ids),
        )


def _temperature(logprobs: Tensor, expected: Tensor) -> float:
    """The temperature that would explain the differences within the rows."""
    given, true = (part - part.mean(dim=1, keepdim=True) for part in (logprobs, expected))
    return float((true * true).sum() / (given * true).sum())
