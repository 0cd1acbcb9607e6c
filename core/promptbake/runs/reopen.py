"""A session of a run that is there already, without its prompt's file or its settings' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptbake.plugins.registry import load
from promptbake.progress import Reporter
from promptbake.runs.layers import Layer, resolve
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session, set_thread_defaults
from promptbake.types import BakeTarget, Prompt


def reopen(
    run: Run,
    prompt: Prompt,
    targets: Sequence[BakeTarget],
    settings: Mapping[str, Any],
    reporter: Reporter,
) -> Session:
    """The session that a stage was run with.

    Args:
        run: The run.
        prompt: What was baked.
        targets: What was learned.
        settings: All of them, as they were recorded.
        reporter: Shows progress and notes to the user.

    Raises:
        BakeError: A setting is not one of this version.
    """
    set_thread_defaults()
    registry = load()
    recorded = Layer(str(run.path), dict(settings))
    resolved = resolve("", registry=registry, recorded=recorded)
    return Session(prompt, tuple(targets), resolved, run, registry, reporter)
