"""What a wrong answer of a teacher looks like, so that a failing test can name the mistake."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

SMALL = 0.05  # nats: what may be rounding
ROUGHLY = 0.02  # nats: a mistake fits where it explains every number this well


def symptom(found: Tensor, ids: Tensor, whole: Tensor, tolerance: float) -> str:
    """What is wrong with log-probabilities [N, C] of `ids`, beside all of them [N, V], in nats.

    Empty where they agree within `tolerance` nats.
    """
    expected = at(whole, ids)
    off = (found - expected).abs()
    if not off.numel() or bool((off <= tolerance).all()):
        return ""
    row, column = divmod(int(off.argmax()), off.shape[1])
    agree = int((off <= tolerance).all(dim=1).sum())
    likely = next(
        (
            text
            for text, part, explained in _mistakes(found, ids, whole)
            if bool(((part - explained).abs() < ROUGHLY).all())
        ),
        f"{agree} of {len(found)} positions agree"
        + ("" if agree else ", as with another model than the reference's, or another context"),
    )
    return (
        f"token {int(ids[row, column])} at position {row} has {float(found[row, column]):.4f} "
        f"where {float(expected[row, column]):.4f} nats are expected: {likely}"
    )


def distance(found: Tensor, ids: Tensor, whole: Tensor) -> float:
    """How far they are from it at most, in nats."""
    return float((found - at(whole, ids)).abs().max())


def at(whole: Tensor, ids: Tensor) -> Tensor:
    """The log-probabilities [N, C] of `ids`, of all of them [N, V]."""
    entries = whole.shape[1]
    assert not ids.numel() or 0 <= int(ids.min()) <= int(ids.max()) < entries, (
        f"ids go from {int(ids.min())} to {int(ids.max())} and the vocabulary has {entries} "
        "entries: look for another tokenizer, and for padding"
    )
    return whole.gather(1, ids)


def _mistakes(found: Tensor, ids: Tensor, whole: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each with what was found, and what would have been found if it had been made."""
    expected = at(whole, ids)
    if float((found - expected).abs().max()) < SMALL:
        yield "if that is rounding, set `tolerance`, in nats", found, found
    yield "these are bits, so multiply by ln 2", found, expected / math.log(2)
    yield "these are logarithms to base 10", found, expected / math.log(10)
    yield "these are probabilities, so take the logarithm", found, expected.exp()
    yield "the sign is turned", found, -expected
    if len(found) > 1:
        yield (
            "each row is the next position's; the row that predicts a token is the one before it",
            found[:-1],
            at(whole[1:], ids[:-1]),
        )
        yield "each row is that of the position before", found[1:], at(whole[:-1], ids[1:])
    if found.shape[1] < 3:
        return
    yield (
        "each row is renormalised over its columns; take log_softmax over the whole vocabulary",
        found,
        expected.log_softmax(dim=1),
    )
    shift = (found - expected).mean(dim=1, keepdim=True)
    yield (
        f"each row is off by one number, {float(shift.mean()):.3f} on average; look for logits "
        "without log_softmax, and for probabilities given that a token is in the tail",
        found,
        expected + shift,
    )
    heat = _temperature(found, expected)
    if heat > 0:
        yield (
            f"this is the distribution at temperature {heat:.2f}; a teacher's is at 1, whatever "
            "the response was sampled at",
            found,
            at((whole / heat).log_softmax(dim=1), ids),
        )


def _temperature(found: Tensor, expected: Tensor) -> float:
    """By which the differences within the rows would be explained."""
    given, true = (part - part.mean(dim=1, keepdim=True) for part in (found, expected))
    return float((true * true).sum() / (given * true).sum())
