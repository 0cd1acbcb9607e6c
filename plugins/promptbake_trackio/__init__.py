"""The tracker `trackio`: the metrics in a trackio database, in the run's folder."""

from __future__ import annotations

from typing import Annotated

from promptbake import RUNTIME_ONLY, Factories, Tracker, hookimpl, requires

PROMPTBAKE_API = 2
Text = Annotated[str, RUNTIME_ONLY]


@requires(modules=("trackio",), install="promptbake[trackio]")
def trackio(*, project: Text = "promptbake", name: Text | None = None) -> Tracker:
    """Keep the metrics in a trackio database, in the folder `trackio` in the run's folder.

    Nothing is sent anywhere. `TRACKIO_DIR=runs/pirate/trackio trackio show` plots the run `pirate`;
    `trackio sync`, in the same way, copies the project to a Hugging Face Space.

    Args:
        project: trackio's project.
        name: The run's name in it; the name of the run's folder where it is not given.
    """
    from promptbake_trackio.tracker import TrackioTracker

    return TrackioTracker(project, name)


@hookimpl
def promptbake_register_trackers() -> Factories[Tracker]:
    """The tracker `trackio`."""
    return {"trackio": trackio}
