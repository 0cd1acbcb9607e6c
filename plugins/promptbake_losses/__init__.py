"""Losses: sums over the support, in nats."""

from __future__ import annotations

from promptbake import Factories, Loss, hookimpl

PROMPTBAKE_API = 2


def forward_kl() -> Loss:
    """KL(teacher || student): the loss of Prompt Baking, arXiv 2409.13697, Eq. 3."""
    from promptbake_losses.divergences import ForwardKL

    return ForwardKL()


def reverse_kl() -> Loss:
    """KL(student || teacher): the student avoids what the teacher finds unlikely."""
    from promptbake_losses.divergences import ReverseKL

    return ReverseKL()


def jsd(*, beta: float = 0.5) -> Loss:
    """The generalised Jensen-Shannon divergence, arXiv 2306.13649, Eq. 1.

    Args:
        beta: The teacher's share of the mixture, between 0 and 1.
    """
    from promptbake_losses.divergences import JSD

    return JSD(beta)


def cross_entropy() -> Loss:
    """Fine-tuning on the response tokens, without a teacher."""
    from promptbake_losses.divergences import CrossEntropy

    return CrossEntropy()


@hookimpl
def promptbake_register_losses() -> Factories[Loss]:
    """The losses `forward_kl`, `reverse_kl`, `jsd` and `cross_entropy`."""
    return {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jsd": jsd,
        "cross_entropy": cross_entropy,
    }
