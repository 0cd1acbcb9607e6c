"""What is to be seen in a teacher's answers: differences, biased draws, errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from promptbake.errors import BakeError
from promptbake.testing.teachers.diagnosis import at
from promptbake.types import TeacherLogprobs

CHANGED = 0.05  # share of the draws that rounding may change, and more with the tolerance
STANDARD_ERRORS = 5.0


def difference(one: TeacherLogprobs, other: TeacherLogprobs, tolerance: float) -> str:
    """How two answers to the same question differ, but for rounding; empty where they do not."""
    if one.logprobs.shape != other.logprobs.shape or one.drawn_ids.shape != other.drawn_ids.shape:
        return "the shapes differ"
    off = (one.logprobs - other.logprobs).abs().max()
    if not bool(off <= tolerance):
        return f"log-probabilities differ by up to {float(off):.4g} nats"
    same = one.drawn_ids == other.drawn_ids
    share = changed(one, other)
    if share > CHANGED + 2 * tolerance:
        return f"{share:.0%} of the draws are others"
    ratio = (
        (one.drawn_importance_weights[same] / other.drawn_importance_weights[same])
        .log()
        .nan_to_num(nan=0.0)
    )  # 0 / 0
    if same.any() and not bool(ratio.abs().max() <= 0.01 + 10 * tolerance):
        return (
            f"the same draw's measure changes by a factor of {float(ratio.abs().max().exp()):.3g}"
        )
    return ""


def changed(one: TeacherLogprobs, other: TeacherLogprobs) -> float:
    """The share of the draws that differ."""
    return (
        float((one.drawn_ids != other.drawn_ids).float().mean()) if one.drawn_ids.numel() else 0.0
    )


def inside(targets: TeacherLogprobs) -> Tensor:
    """Which draws [N, M] fell into the top K."""
    return (targets.drawn_ids.unsqueeze(2) == targets.ids.unsqueeze(1)).any(dim=2)


def bias(answers: Sequence[TeacherLogprobs], whole: Tensor, tolerance: float) -> str:
    """What the draws of many answers to one span say of the tail that is not so; empty if nothing.

    Over the seeds, the sum of `measure * f` over the draws must be the sum of f over the tail. It
    is tried for probabilities: of all tokens, of the likelier ones, and of those with an even id.
    """
    tail = whole.exp().scatter(1, answers[0].ids, 0.0)  # [N, V]
    mass = float(tail.sum(dim=1).mean())
    order = tail.argsort(dim=1, descending=True)
    before = tail.gather(1, order).cumsum(dim=1) < tail.sum(dim=1, keepdim=True) / 2
    likelier = torch.zeros_like(tail).scatter(1, order, before.float())
    even = (torch.arange(tail.shape[1]) % 2 == 0).float().expand_as(tail)
    parts = {"": torch.ones_like(tail), "'s likelier half": likelier, "'s even token ids": even}
    for part, chosen in parts.items():
        values = whole.exp() * chosen
        exact = float((tail * chosen).sum(dim=1).mean())
        found = torch.stack([_estimate(answer, values) for answer in answers])
        error = float(found.std() / len(found) ** 0.5)
        mean = float(found.mean())
        rounding = exact * tolerance * (1 + 1 / mass)  # of the probabilities, and of the tail's
        if not abs(mean - exact) <= STANDARD_ERRORS * error + rounding:
            return (
                f"they give the tail{part} a probability of {mean:.4f}, and it is {exact:.4f} "
                f"(standard error {error:.4f}): {_cause(answers[0], mean / exact, mass)}"
            )
    return ""


def refusal(work: Callable[[], object]) -> Exception | None:
    """What the work raised, if it raised anything but a failed assertion."""
    try:
        work()
    except AssertionError:
        raise
    except Exception as error:
        return error
    return None


def shown(error: Exception | None) -> str:
    """What a user sees of an error: a BakeError's text, the whole traceback of another."""
    if error is None or isinstance(error, BakeError):
        return str(error or "")
    return "".join(traceback.format_exception(error))


def _estimate(answer: TeacherLogprobs, values: Tensor) -> Tensor:
    return (answer.drawn_importance_weights * at(values, answer.drawn_ids)).sum(dim=1).mean()


def _cause(answer: TeacherLogprobs, ratio: float, mass: float) -> str:
    draws = answer.drawn_importance_weights.shape[1]
    if bool((answer.drawn_importance_weights == 1).all()):
        return "every measure is 1"
    for times, text in ((draws, "divide each measure by M"), (1 / draws, "divide by M once only")):
        if draws > 1 and abs(ratio / times - 1) < 0.2:
            return f"{ratio:.3g} times as much, so {text}, the number of draws"
    if abs(ratio / mass - 1) < 0.2:
        return "look for draws from the whole vocabulary with the weights of draws from the tail"
    return (
        "a measure is 1 / (M * the probability that the token was drawn with), and draws are with "
        "replacement"
    )
