"""The hooks. Each returns a mapping from a name to a factory; a command's is the command itself.

A factory's keyword arguments, with their annotations and defaults, are the options that a user
sets under `options.<kind>.<name>.<option>`; they are checked against the annotations. A stage is
run again where an option differs from the one that it was run with, unless the option is annotated
as `Annotated[..., RUNTIME_ONLY]`. Keep the module that holds the hooks light: import heavy packages
inside the factories. The module says which version of the plugin API it was written for:
`PROMPTBAKE_API = 2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import pluggy

from promptbake.interfaces import Backend, DataProvider, Evaluator, Loss, Teacher, Tracker
from promptbake.redaction import declare_secrets

hookspec = pluggy.HookspecMarker("promptbake")
hookimpl = pluggy.HookimplMarker("promptbake")

API_VERSION = 2  # of the hooks and the interfaces: raised where an earlier plugin would break

RUNTIME_ONLY = object()  # annotates an option that the result does not depend on

T = TypeVar("T")
Factories = Mapping[str, Callable[..., T]]
Factory = TypeVar("Factory", bound=Callable[..., object])


@dataclass(frozen=True)
class Requirements:
    """What a factory requires beside its plugin."""

    modules: tuple[str, ...] = ()  # that can be imported
    install: str = ""  # what pip is to be given for them
    keys: tuple[str, ...] = ()  # environment variables with a secret
    unless: Mapping[str, object] = field(default_factory=dict)  # options that need no keys


def requires(
    *,
    modules: tuple[str, ...] = (),
    install: str = "",
    keys: tuple[str, ...] = (),
    unless: Mapping[str, object] | None = None,
) -> Callable[[Factory], Factory]:
    """Declare what a factory requires, so that a user hears of it before the work begins.

    Args:
        modules: Modules that must be importable: the factory is not called while one is missing.
        install: What to `pip install` for them; the modules' names where it is not given.
        keys: Environment variables that hold its keys; `promptbake doctor` shows which are set,
            and their values are redacted wherever they turn up.
        unless: Options with which no key is needed, such as `{"mode": "offline"}`.

    Example:
        @requires(modules=("acme",), install="promptbake-acme[client]", keys=("ACME_API_KEY",))
        def acme(*, model: str) -> DataProvider: ...
    """

    declare_secrets(keys)

    def declare(factory: Factory) -> Factory:
        requirements = Requirements(modules, install or " ".join(modules), keys, unless or {})
        factory.promptbake_requirements = requirements  # type: ignore[attr-defined]
        return factory

    return declare


HOOKS = {
    "data_providers": "promptbake_register_data_providers",
    "teachers": "promptbake_register_teachers",
    "losses": "promptbake_register_losses",
    "backends": "promptbake_register_backends",
    "evaluators": "promptbake_register_evaluators",
    "trackers": "promptbake_register_trackers",
    "commands": "promptbake_register_commands",
    "profiles": "promptbake_register_profiles",
}
SINGULAR = {  # one of a kind, for a message
    "data_providers": "data provider",
    "teachers": "teacher",
    "losses": "loss",
    "backends": "backend",
    "evaluators": "evaluator",
    "trackers": "tracker",
    "commands": "command",
    "profiles": "profile",
}
WITHOUT_OPTIONS = ("commands", "profiles")  # kinds whose names may have hyphens


def find_kind(text: str) -> str:
    """A kind as in HOOKS, of its singular or plural, with - or _; the text where there is none."""
    words = text.lower().replace("-", " ").replace("_", " ")
    kinds = {singular: kind for kind, singular in SINGULAR.items()}
    kinds |= {kind.replace("_", " "): kind for kind in HOOKS}
    return kinds.get(words, text)


@hookspec
def promptbake_register_data_providers() -> Factories[DataProvider]:  # type: ignore[empty-body]
    """Offer sources of conversations: they yield one for each request that is not completed."""


@hookspec
def promptbake_register_teachers() -> Factories[Teacher]:  # type: ignore[empty-body]
    """Offer sources of the prompted model's log-probabilities at the response positions."""


@hookspec
def promptbake_register_losses() -> Factories[Loss]:  # type: ignore[empty-body]
    """Offer losses: (student, teacher, importance_weights), each [N, C], to nats [N]."""


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
def promptbake_register_commands() -> Factories[None]:  # type: ignore[empty-body]
    """Offer commands of `promptbake`: functions whose annotations are typer's.

    A first parameter that is annotated as `Session` stands for PROMPT and the options of a run.
    """


@hookspec
def promptbake_register_profiles() -> Factories[str]:  # type: ignore[empty-body]
    """Offer profiles for --profile: functions without arguments that return a TOML text."""
