"""Fake services on this machine: Tinker's and a chat endpoint, as servers and as a plugin.

The servers are `promptbake_loopback.tinker.TinkerLoopback` and
`promptbake_loopback.openai.ChatEndpoint`; `promptbake_loopback.fixtures` has them as pytest
fixtures, `python -m promptbake_loopback` as processes. The plugin is the backend `tinker_local`,
and a profile that uses it.
"""

from __future__ import annotations

from importlib.resources import files
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from promptbake import RUNTIME_ONLY, Backend, Factories, hookimpl, requires

PROMPTBAKE_API = 2
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Gt(0)]
NotNegative = Annotated[float, Ge(0), Lt(inf)]
Share = Annotated[float, Ge(0), Lt(1)]
Seed = Annotated[int, Ge(0), Lt(2**31)]


@requires(
    modules=("starlette", "uvicorn", "tinker", "tinker_cookbook"),
    install="promptbake[loopback,tinker]",
)
def tinker_local_backend(
    *,
    renderer: str = "auto",
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
    """Bake as the backend `tinker` does, on a server that is started on this machine.

    It needs no key, and nothing is billed. `model.name` is `tiny`, or a Hugging Face folder. The
    options are those of `tinker`; `prices` are made up, to try a budget.
    """
    from promptbake_loopback.backend import make_backend

    return make_backend(
        renderer=renderer,
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


def tinker_local_profile() -> str:
    """Bake as on Tinker, on a server on this machine that needs no key."""
    profile = files("promptbake_loopback") / "profiles" / "tinker-local.toml"
    return profile.read_text("utf-8")


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `tinker_local`."""
    return {"tinker_local": tinker_local_backend}


@hookimpl
def promptbake_register_profiles() -> Factories[str]:
    """The profile `tinker-local`."""
    return {"tinker-local": tinker_local_profile}
