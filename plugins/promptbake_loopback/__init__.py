"""Fake services on this machine: Tinker's and a chat endpoint, as servers and as a plugin.

The servers are `promptbake_loopback.tinker.TinkerLoopback` and
`promptbake_loopback.openai.ChatEndpoint`; `promptbake_loopback.fixtures` has them as pytest
fixtures, `python -m promptbake_loopback` as processes. The plugin is the backend `tinker_local`,
and a profile that uses it.
"""

from __future__ import annotations

from importlib.resources import files
from inspect import signature
from typing import Any, get_type_hints

from promptbake import Backend, Factories, hookimpl, requires
from promptbake_tinker import tinker_backend

PROMPTBAKE_API = 2


@requires(
    modules=("starlette", "uvicorn", "tinker", "tinker_cookbook"),
    install="promptbake[loopback,tinker]",
)
def tinker_local_backend(**options: Any) -> Backend:
    """Bake as the backend `tinker` does, on a server that is started on this machine.

    It needs no key, and nothing is billed. `model.name` is `tiny`, or a Hugging Face folder. The
    options are those of `tinker`, but for `base_url`; `prices` are made up, to try a budget.
    """
    from promptbake_loopback.backend import make_backend

    return make_backend(**options)


_OPTIONS = signature(tinker_backend)
_SHARED = [each for each in _OPTIONS.parameters.values() if each.name != "base_url"]
_TYPES = get_type_hints(tinker_backend, include_extras=True)
vars(tinker_local_backend)["__signature__"] = _OPTIONS.replace(parameters=_SHARED)
tinker_local_backend.__annotations__ = {each.name: _TYPES[each.name] for each in _SHARED}


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
