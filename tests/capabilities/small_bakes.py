"""Small bakes for the tests of capabilities: few queries, few questions, two profiles."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from promptbake import Prompt

PIRATE = Prompt("pirate", "Answer like a pirate who has lost his map, his ship and his parrot.")
QUERIES = [f"{ask} {thing}?" for ask in ("What is", "Where is", "Who saw", "Why is there")
           for thing in ("a tide", "the sea", "a ship", "the map", "a parrot", "rum")]  # fmt: skip
Baked = Callable[..., dict[str, Any]]  # the fixture: the job of a run that is baked already
SERVED = "SPIKES_TINKER_URL"  # set by the fixture that serves the tiny model by Tinker's protocol
SMALL = {
    "data.queries": "queries.txt",
    "verify.questions": "questions.txt",
    "data.held_out": 6,
    "data.max_tokens": 12,
    "verify.max_tokens": 6,
    "verify.min_gap_closed": -100,
    "train.epochs": 3,
    "train.eval_every": 100,
    "train.save_every": 100,
}


def job(profile: str, run: str = "runs/pirate", **settings: Any) -> dict[str, Any]:
    """The keyword arguments of a small bake; a setting's dots are written as `__`.

    The backend of `tinker-local` is that of `tinker`, on the server that all tests share.
    """
    values: dict[str, Any] = dict(SMALL)
    if profile == "tinker-local":
        options = "options.backends.tinker"
        values |= {"train.backend": "tinker", f"{options}.base_url": os.environ[SERVED]}
        values |= {f"{options}.renderer": "chat_template", f"{options}.max_grad_norm": 1.0}
        values[f"{options}.prices"] = dict.fromkeys(("prefill", "sample", "train"), 0.0)
        values["model.name"] = os.environ[f"{SERVED}_MODEL"]
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    return {"profile": profile, "run": run, "quiet": True, "settings": values}
