"""The hooks. Each returns a mapping from a name to a factory, or to a profile.

A factory's keyword arguments, with their annotations and defaults, are the options that a user
sets under `options.<kind>.<name>.<option>`; they are checked against the annotations. A run is made
anew where an option differs from the one that it was made with, unless the option is annotated as
`Annotated[..., TUNING]`. Keep the
module that holds the hooks light: import heavy packages inside the factories. The module says
which version of all this it was written for: `PROMPTBAKE_API = 1`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

import pluggy

from promptbake.interfaces import Backend, DataProvider, Evaluator, Loss, Teacher, Tracker

hookspec = pluggy.HookspecMarker("promptbake")
hookimpl = pluggy.HookimplMarker("promptbake")

API_VERSION = 1  # of the hooks and the interfaces: raised where a plugin of before would break

TUNING = object()  # annotates an option that changes how work is done, not what comes of it

T = TypeVar("T")
Factories = Mapping[str, Callable[..., T]]
ProfileText = str | Path | Traversable  # a str is the text itself
Factory = TypeVar("Factory", bound=Callable[..., object])


@dataclass(frozen=True)
class Needs:
    """What an offer needs beside its plugin."""

    modules: tuple[str, ...] = ()  # that can be imported
    install: str = ""  # what pip is to be given for them
    keys: tuple[str, ...] = ()  # environment variables with a secret
    unless: Mapping[str, object] = field(default_factory=dict)  # options that make keys needless


def needs(
    *,
    modules: tuple[str, ...] = (),
    install: str = "",
    keys: tuple[str, ...] = (),
    unless: Mapping[str, object] | None = None,
) -> Callable[[Factory], Factory]:
    """Declare what a factory's object needs, so that a user hears of it before it is missed.

    A factory is not called while one of the `modules` is missing; the user is told to
    `pip install` what `install` says. `promptbake doctor` shows which of the `keys`, environment
    variables, are set; with the options in `unless` they are not needed.
    """

    def declare(factory: Factory) -> Factory:
        found = Needs(modules, install or " ".join(modules), keys, unless or {})
        factory.promptbake_needs = found  # type: ignore[attr-defined]
        return factory

    return declare


HOOKS = {  # by the kind of what their factories make
    "data_providers": "promptbake_register_data_providers",
    "teachers": "promptbake_register_teachers",
    "losses": "promptbake_register_losses",
    "backends": "promptbake_register_backends",
    "evaluators": "promptbake_register_evaluators",
    "trackers": "promptbake_register_trackers",
}
PROFILES_HOOK = "promptbake_register_profiles"
ALL_HOOKS = (*HOOKS.values(), PROFILES_HOOK)


@hookspec
def promptbake_register_data_providers() -> Factories[DataProvider]:  # type: ignore[empty-body]
    """Offer sources of conversations: yield one for each request that is not done yet."""


@hookspec
def promptbake_register_teachers() -> Factories[Teacher]:  # type: ignore[empty-body]
    """Offer sources of the prompted model's log-probabilities at the response positions."""


@hookspec
def promptbake_register_losses() -> Factories[Loss]:  # type: ignore[empty-body]
    """Offer losses: (student, teacher, measure), each [N, C], to nats [N]."""


@hookspec
def promptbake_register_backends() -> Factories[Backend]:  # type: ignore[empty-body]
    """Offer engines that open a base model, train a LoRA on it and load a checkpoint."""


@hookspec
def promptbake_register_evaluators() -> Factories[Evaluator]:  # type: ignore[empty-body]
    """Offer measurements of the four arms: base, prompted, baked, re-prompted."""


@hookspec
def promptbake_register_trackers() -> Factories[Tracker]:  # type: ignore[empty-body]
    """Offer receivers of a run's metrics."""


@hookspec
def promptbake_register_profiles() -> Mapping[str, ProfileText]:  # type: ignore[empty-body]
    """Offer profiles for --profile: the TOML text of a config, or a file that holds it."""
