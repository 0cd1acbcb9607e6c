"""Losses: sums over the support, in nats."""

from __future__ import annotations

from promptbake import Factories, Loss, hookimpl

PROMPTBAKE_API = 2


def forward_kl() -> Loss:
    """KL(teacher || student): the loss of Prompt Baking, arXiv 2409.13697, Eq. 3."""
    from promptbake_losses.divergences import ForwardKL

    return ForwardKL()


def reverse_kl() -> Loss:
    """KL(student || teacher): prefers a student that says only what the teacher would."""
    from promptbake_losses.divergences import ReverseKL

    return ReverseKL()


def jsd(*, beta: float = 0.5) -> Loss:
    """The Jensen-Shannon divergence, generalised: `beta` is the teacher's share of the mixture."""
    from promptbake_losses.divergences import JSD

    return JSD(beta)


def cross_entropy() -> Loss:
    """Fine-tuning on the response tokens alone: no teacher is asked."""
    from promptbake_losses.divergences import CrossEntropy

    return CrossEntropy()


@hookimpl
def promptbake_register_losses() -> Factories[Loss]:
    """The four losses."""
    return {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jsd": jsd,
        "cross_entropy": cross_entropy,
    }
