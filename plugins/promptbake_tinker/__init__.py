"""The backend and the teacher `tinker`: LoRAs that are trained and served by Tinker."""

from __future__ import annotations

from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from promptbake.hookspecs import TUNING, Factories, hookimpl, needs
from promptbake.interfaces import Backend, Teacher

if TYPE_CHECKING:
    from promptbake_tinker.backend import TinkerBackend
    from promptbake_tinker.connection import Connection
    from promptbake_tinker.pace import Pace
    from promptbake_tinker.prices import Prices
    from promptbake_tinker.settings import Settings

__all__ = ["Connection", "Pace", "Prices", "Settings", "TinkerBackend"]

PROMPTBAKE_API = 1
EXPORTS = {  # imported when they are first used: the SDK takes seconds
    "Connection": "connection",
    "Pace": "pace",
    "Prices": "prices",
    "Settings": "settings",
    "TinkerBackend": "backend",
}
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Gt(0)]
NotNegative = Annotated[float, Ge(0), Lt(inf)]
Share = Annotated[float, Ge(0), Lt(1)]


@needs(
    modules=("tinker", "tinker_cookbook"),
    install="promptbake[tinker]",
    keys=("TINKER_API_KEY",),
)
def tinker_backend(
    *,
    renderer: str = "auto",
    base_url: Annotated[str | None, TUNING] = None,
    steps_in_flight: Annotated[Count, TUNING] = 2,
    calls_in_flight: Annotated[Count, TUNING] = 64,
    deadline: Annotated[Positive, TUNING] = 1800.0,
    state_ttl: Annotated[float, Ge(3600), TUNING] = 7 * 86400.0,
    betas: tuple[Share, Share] = (0.9, 0.95),
    eps: Positive = 1e-12,
    max_grad_norm: NotNegative = 0.0,
    train_unembed: bool = True,
    prices: Annotated[dict[str, NotNegative] | None, TUNING] = None,
) -> Backend:
    """Bake into a LoRA on Tinker, or on a server that speaks its protocol at `base_url`.

    The key comes from TINKER_API_KEY, the address from TINKER_BASE_URL where `base_url` is not
    given. `renderer` is one of tinker-cookbook's, `auto` the one that it recommends, or
    `chat_template`, the tokenizer's own. `steps_in_flight` steps and `calls_in_flight` other calls
    are in flight at a time; each wait ends after `deadline` seconds. A state to resume from is kept
    for `state_ttl` seconds. `betas`, `eps` and `max_grad_norm` (0 for none) are Adam's;
    `train_unembed` puts the LoRA on the unembedding, too. `prices` replaces the table: `prefill`,
    `sample` and `train` in dollars per million tokens.
    """
    from promptbake_tinker.backend import TinkerBackend
    from promptbake_tinker.settings import Settings

    return TinkerBackend(
        Settings(
            renderer=renderer,
            base_url=base_url,
            steps_in_flight=steps_in_flight,
            calls_in_flight=calls_in_flight,
            deadline=deadline,
            state_ttl=state_ttl,
            betas=betas,
            eps=eps,
            max_grad_norm=max_grad_norm,
            train_unembed=train_unembed,
            prices=prices,
        )
    )


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{EXPORTS[name]}"), name)


@needs(modules=("tinker", "tinker_cookbook"), install="promptbake[tinker]")
def tinker_teacher() -> Teacher:
    """The prompted base model on Tinker, whichever backend opened it there."""
    from promptbake_tinker.teacher import TinkerTeacher

    return TinkerTeacher()


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `tinker`."""
    return {"tinker": tinker_backend}


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `tinker`."""
    return {"tinker": tinker_teacher}
