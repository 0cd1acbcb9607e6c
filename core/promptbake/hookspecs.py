"""The hooks. Each returns a mapping from a name to a factory.

A factory's keyword arguments, with their annotations and defaults, are the options that a user
sets under `options.<kind>.<name>.<option>`; they are checked against the annotations. A run is made
anew where an option differs from the one that it was made with, unless the option is annotated as
`Annotated[..., TUNING]`. Keep the
module that holds the hooks light: import heavy packages inside the factories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import pluggy

from promptbake.interfaces import Backend, DataProvider, Evaluator, Loss, Teacher, Tracker

hookspec = pluggy.HookspecMarker("promptbake")
hookimpl = pluggy.HookimplMarker("promptbake")

TUNING = object()  # annotates an option that changes how work is done, not what comes of it

T = TypeVar("T")
Factories = Mapping[str, Callable[..., T]]

HOOKS = {
    "data_providers": "promptbake_register_data_providers",
    "teachers": "promptbake_register_teachers",
    "losses": "promptbake_register_losses",
    "backends": "promptbake_register_backends",
    "evaluators": "promptbake_register_evaluators",
    "trackers": "promptbake_register_trackers",
}


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
