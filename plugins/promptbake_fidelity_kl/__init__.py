"""An evaluator: how likely the prompted model finds what the baked model says by itself."""

from __future__ import annotations

from promptbake import Evaluator, Factories, hookimpl

PROMPTBAKE_API = 2


def reverse_kl(*, items: int = 15, max_tokens: int = 48) -> Evaluator:
    """Measure KL(arm || prompted) on the arm's own responses to held-out queries.

    The KL that every bake is measured by is forward: on what the prompted model says. An arm may
    be close there, and yet say things by itself that the prompted model never would.

    Args:
        items: Held-out queries at most; each is answered once by base and once by the baked model.
        max_tokens: Maximum tokens per response.
    """
    from promptbake_fidelity_kl.evaluator import ReverseKL

    return ReverseKL(items, max_tokens)


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluator `reverse_kl`."""
    return {"reverse_kl": reverse_kl}
