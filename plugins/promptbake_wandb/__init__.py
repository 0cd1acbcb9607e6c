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

    The run gets the name of the run's folder where `name` is not given. `entity` is the user or the
    team; without it, it is the key's. The key comes from WANDB_API_KEY, or from `wandb login`. With
    `mode` "offline" none is needed and nothing is sent: `wandb sync` on the folder `wandb` in the
    run's folder sends it later. `timeout` is how many seconds W&B may take to begin a run, and to
    end one; what is not sent by then is on disk for `wandb sync`.

    A bake that goes on after it was cut short is a new run on W&B, which is told all that counts so
    far. What the earlier one sent stays there as a run that crashed: W&B cannot take back steps.
    """
    from promptbake_wandb.tracker import WandbTracker

    return WandbTracker(project=project, name=name, entity=entity, mode=mode, timeout=timeout)


@hookimpl
def promptbake_register_trackers() -> Factories[Tracker]:
    """The tracker `wandb`."""
    return {"wandb": wandb}
