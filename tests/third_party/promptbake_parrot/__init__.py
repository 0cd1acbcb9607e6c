"""The plugin `parrot`: one of each kind, by the public names of promptbake."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from promptbake import (
    RUNTIME_ONLY,
    Backend,
    DataProvider,
    Evaluator,
    Factories,
    Loss,
    Teacher,
    Tracker,
    hookimpl,
)

PROMPTBAKE_API = 2
Count = Annotated[int, Gt(0)]


def parrot_provider(*, tries: Count = 2) -> DataProvider:
    """The prompted base model answers `tries` times, and its longest answer is kept."""
    from promptbake_parrot.provider import Longest

    return Longest(tries)


def parrot_teacher(*, at_a_time: Annotated[Count, RUNTIME_ONLY] = 8) -> Teacher:
    """The prompted base model, asked about so many conversations at a time."""
    from promptbake_parrot.teacher import InSlices

    return InSlices(at_a_time)


def parrot_loss() -> Loss:
    """The divergence of Jeffreys: KL(teacher || student) + KL(student || teacher)."""
    from promptbake_parrot.loss import Jeffreys

    return Jeffreys()


def parrot_backend(*, seed: int = 7) -> Backend:
    """The torch backend on a tiny model of its own, with weights from `seed`."""
    from promptbake_parrot.backend import tiny_backend

    return tiny_backend(seed)


def parrot_evaluator() -> Evaluator:
    """The share of an answer's words that it has said already."""
    from promptbake_parrot.evaluator import Repetition

    return Repetition()


def parrot_tracker() -> Tracker:
    """Write parrot.sqlite in the run's folder: a table `steps`, a row a step."""
    from promptbake_parrot.tracker import SqliteTracker

    return SqliteTracker()


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The data provider `parrot`."""
    return {"parrot": parrot_provider}


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `parrot`."""
    return {"parrot": parrot_teacher}


@hookimpl
def promptbake_register_losses() -> Factories[Loss]:
    """The loss `parrot`."""
    return {"parrot": parrot_loss}


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `parrot`."""
    return {"parrot": parrot_backend}


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluator `parrot`."""
    return {"parrot": parrot_evaluator}


@hookimpl
def promptbake_register_trackers() -> Factories[Tracker]:
    """The tracker `parrot`."""
    return {"parrot": parrot_tracker}
