"""The backend and the teacher `tinker`: LoRAs that are trained and served by Tinker."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Annotated, Literal

import lazy_loader
from annotated_types import Ge, Gt, Lt

from promptbake import RUNTIME_ONLY, Backend, Factories, ModelTeacher, Teacher, hookimpl, requires

if TYPE_CHECKING:
    from promptbake_tinker.backend import TinkerBackend
    from promptbake_tinker.connection import Connection
    from promptbake_tinker.latency import LatencyModel
    from promptbake_tinker.prices import Prices
    from promptbake_tinker.settings import Settings

__all__ = ["Connection", "LatencyModel", "Prices", "Settings", "TinkerBackend"]

PROMPTBAKE_API = 2
_PUBLIC = {  # by the module, which is imported at the first use of a name
    "backend": ["TinkerBackend"],
    "connection": ["Connection"],
    "latency": ["LatencyModel"],
    "prices": ["Prices"],
    "settings": ["Settings"],
}
__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs=_PUBLIC)
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Gt(0)]
NotNegative = Annotated[float, Ge(0), Lt(inf)]
Share = Annotated[float, Ge(0), Lt(1)]


@requires(
    modules=("tinker", "tinker_cookbook"),
    install="promptbake[tinker]",
    keys=("TINKER_API_KEY",),
)
def tinker_backend(
    *,
    renderer: str = "auto",
    base_url: Annotated[str | None, RUNTIME_ONLY] = None,
    steps_in_flight: Annotated[Count, RUNTIME_ONLY] = 2,
    calls_in_flight: Annotated[Count, RUNTIME_ONLY] = 64,
    deadline: Annotated[Positive, RUNTIME_ONLY] = 1800.0,
    state_ttl: Annotated[float, Ge(3600), RUNTIME_ONLY] = 7 * 86400.0,
    betas: tuple[Share, Share] = (0.9, 0.95),
    eps: Positive = 1e-12,
    max_grad_norm: NotNegative = 0.0,
    train_unembed: bool = True,
    datum_layout: Literal["wide", "per_token"] = "wide",
    prices: Annotated[dict[str, NotNegative] | None, RUNTIME_ONLY] = None,
) -> Backend:
    """Bake into a LoRA on Tinker, or on a server that speaks its protocol at `base_url`.

    The key comes from TINKER_API_KEY, the address from TINKER_BASE_URL where `base_url` is not
    given. `renderer` is one of tinker-cookbook's, `auto` the one that it recommends, or
    `chat_template`, the tokenizer's own. `steps_in_flight` steps and `calls_in_flight` other calls
    are in flight at a time; each wait ends after `deadline` seconds. A state to resume from is kept
    for `state_ttl` seconds. `betas`, `eps` and `max_grad_norm` (0 for none) are Adam's;
    `train_unembed` puts the LoRA on the unembedding, too. `datum_layout` is `wide` for one datum a
    conversation with (N, C) targets, or `per_token` for C datums with (N,) targets, as the
    reference recipe sends. `prices` replaces the table: `prefill`, `sample` and `train` in dollars
    per million tokens.
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
            datum_layout=datum_layout,
            prices=prices,
        )
    )


def tinker_teacher() -> Teacher:
    """The prompted base model that the backend opened: the teacher `self` by another name."""
    return ModelTeacher()


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `tinker`."""
    return {"tinker": tinker_backend}


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `tinker`."""
    return {"tinker": tinker_teacher}
