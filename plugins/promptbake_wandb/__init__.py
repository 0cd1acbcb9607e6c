"""The tracker `wandb`: the metrics on Weights & Biases, or on disk for `wandb sync`."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt

from promptbake import RUNTIME_ONLY, Factories, Tracker, hookimpl, requires

PROMPTBAKE_API = 2
Text = Annotated[str, RUNTIME_ONLY]


@requires(
    modules=("wandb",),
    install="promptbake[wandb]",
    keys=("WANDB_API_KEY",),
    unless={"mode": "offline"},
)
def wandb(
    *,
    project: Text = "promptbake",
    name: Text | None = None,
    entity: Text | None = None,
    mode: Annotated[Literal["online", "offline"], RUNTIME_ONLY] = "online",
    timeout: Annotated[float, Gt(0), RUNTIME_ONLY] = 60.0,
) -> Tracker:
    """Send the metrics to Weights & Biases, or keep them for `wandb sync`.

    The key is read from WANDB_API_KEY, or from what `wandb login` stored. A bake that resumes is a
    new run on W&B with all steps so far; the earlier one stays there as a crashed run, since W&B
    cannot delete steps.

    Args:
        project: W&B's project.
        name: The run's name in it; the name of the run's folder where it is not given.
        entity: The user or the team; the key's where it is not given.
        mode: "offline" needs no key and sends nothing: `wandb sync` on the folder `wandb` in the
            run's folder sends the metrics later.
        timeout: Seconds that W&B may take to start a run, and to finish one; what is not sent by
            then is on disk for `wandb sync`.
    """
    from promptbake_wandb.tracker import WandbTracker

    return WandbTracker(project=project, name=name, entity=entity, mode=mode, timeout=timeout)


@hookimpl
def promptbake_register_trackers() -> Factories[Tracker]:
    """The tracker `wandb`."""
    return {"wandb": wandb}
