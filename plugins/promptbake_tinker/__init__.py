"""The backend and the teacher `tinker`: Tinker trains and serves the LoRAs.

The profile `tinker-recipe` is the recipe that promptbake started from.
"""

from __future__ import annotations

from importlib.resources import files
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

__all__ = [
    "Connection",
    "LatencyModel",
    "Prices",
    "Settings",
    "TinkerBackend",
    "tinker_backend",
]

PROMPTBAKE_API = 2
_PUBLIC = {  # by module, imported at the first use of a name
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
Seed = Annotated[int, Ge(0), Lt(2**31)]


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
    train_attn: bool = True,
    train_mlp: bool = True,
    train_unembed: bool = True,
    lora_seed: Seed | None = None,
    datum_layout: Literal["wide", "per_token"] = "wide",
    prices: Annotated[dict[str, NotNegative] | None, RUNTIME_ONLY] = None,
) -> Backend:
    """Bake into a LoRA on Tinker, or on a server that speaks its protocol at `base_url`.

    The key is read from TINKER_API_KEY.

    Args:
        renderer: One of tinker-cookbook's, `auto` for the one that it recommends, or
            `chat_template` for the tokenizer's own.
        base_url: The server's address; by default TINKER_BASE_URL, else the hosted service.
        steps_in_flight: Training steps in flight at a time.
        calls_in_flight: Other calls in flight at a time.
        deadline: Seconds until a wait for the service ends.
        state_ttl: Seconds that the service keeps a state to resume from.
        betas: Adam's.
        eps: Adam's.
        max_grad_norm: Clips the gradient's norm; 0 for no clipping.
        train_attn: Whether the LoRA is on the attention.
        train_mlp: Whether the LoRA is on the MLPs, experts included.
        train_unembed: Whether the LoRA is on the unembedding. Of a model with tied embeddings, such
            an adapter can be used on Tinker, but not exported.
        lora_seed: Of the LoRA's fresh weights; the run's `seed` by default.
        datum_layout: `wide` for one datum a conversation with (N, C) targets, or `per_token` for C
            datums with (N,) targets, as the reference recipe sends.
        prices: Replaces the price table: `prefill`, `sample` and `train` in dollars per million
            tokens.
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
            train_attn=train_attn,
            train_mlp=train_mlp,
            train_unembed=train_unembed,
            lora_seed=lora_seed,
            datum_layout=datum_layout,
            prices=prices,
        )
    )


def tinker_teacher() -> Teacher:
    """The prompted base model that the backend opened: the teacher `self` by another name."""
    return ModelTeacher()


def tinker_recipe_profile() -> str:
    """The recipe that promptbake started from: the top K alone, per-token datums, W&B."""
    profile = files("promptbake_tinker") / "profiles" / "tinker-recipe.toml"
    return profile.read_text("utf-8")


@hookimpl
def promptbake_register_profiles() -> Factories[str]:
    """The profile `tinker-recipe`."""
    return {"tinker-recipe": tinker_recipe_profile}


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `tinker`."""
    return {"tinker": tinker_backend}


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `tinker`."""
    return {"tinker": tinker_teacher}
