"""The plugin `example`: one of each kind, by the public names of promptbake."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

from annotated_types import Gt

from promptbake import (
    RUNTIME_ONLY,
    Backend,
    DataProvider,
    Evaluator,
    Factories,
    Loss,
    Session,
    Teacher,
    Tracker,
    hookimpl,
    read_json_lines,
)

PROMPTBAKE_API = 2
Count = Annotated[int, Gt(0)]


def example_provider(*, tries: Count = 2) -> DataProvider:
    """The longest of `tries` responses of the prompted base model."""
    from promptbake_example.provider import Longest

    return Longest(tries)


def example_teacher(*, at_a_time: Annotated[Count, RUNTIME_ONLY] = 8) -> Teacher:
    """The prompted base model, `at_a_time` conversations in each call."""
    from promptbake_example.teacher import InSlices

    return InSlices(at_a_time)


def example_loss() -> Loss:
    """The Jeffreys divergence: KL(teacher || student) + KL(student || teacher)."""
    from promptbake_example.loss import Jeffreys

    return Jeffreys()


def example_backend(*, seed: int = 7) -> Backend:
    """The torch backend on a tiny model, with weights from `seed`."""
    from promptbake_example.backend import tiny_backend

    return tiny_backend(seed)


def example_evaluator() -> Evaluator:
    """The share of an answer's words that it repeats."""
    from promptbake_example.evaluator import Repetition

    return Repetition()


def example_tracker() -> Tracker:
    """Write example.sqlite in the run's folder: a table `steps`, a row a step."""
    from promptbake_example.tracker import SqliteTracker

    return SqliteTracker()


def example_command(session: Session) -> None:
    """Print how many conversations of the run are for training, and how many are held out."""
    for file in (session.run.data, session.run.held_out):
        print(f"{file.stem}: {len(read_json_lines(file))}")  # noqa: T201


def example_profile() -> str:
    """The settings to bake with this plugin alone."""
    return files("promptbake_example").joinpath("profile.toml").read_text("utf-8")


@hookimpl
def promptbake_register_data_providers() -> Factories[DataProvider]:
    """The data provider `example`."""
    return {"example": example_provider}


@hookimpl
def promptbake_register_teachers() -> Factories[Teacher]:
    """The teacher `example`."""
    return {"example": example_teacher}


@hookimpl
def promptbake_register_losses() -> Factories[Loss]:
    """The loss `example`."""
    return {"example": example_loss}


@hookimpl
def promptbake_register_backends() -> Factories[Backend]:
    """The backend `example`."""
    return {"example": example_backend}


@hookimpl
def promptbake_register_evaluators() -> Factories[Evaluator]:
    """The evaluator `example`."""
    return {"example": example_evaluator}


@hookimpl
def promptbake_register_trackers() -> Factories[Tracker]:
    """The tracker `example`."""
    return {"example": example_tracker}


@hookimpl
def promptbake_register_commands() -> Factories[None]:
    """The command `example`."""
    return {"example": example_command}


@hookimpl
def promptbake_register_profiles() -> Factories[str]:
    """The profile `example`."""
    return {"example": example_profile}
