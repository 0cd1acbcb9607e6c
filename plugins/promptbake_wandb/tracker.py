"""A run on W&B for each time that a bake starts or resumes, with all steps so far."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import wandb
from pydantic import ConfigDict
from wandb.sdk.lib import wbauth

from promptbake import (
    BakeError,
    Count,
    Document,
    JsonLines,
    StepMetrics,
    read_own_lines,
    write_atomic,
)

# Disables what W&B records by itself: the machine, the code, the console, the installed packages.
# Any: the values are for parameters of many types.
SETTINGS: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "label_disable": True,
    "silent": True,
    "use_dot_wandb": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 0.1,  # seconds, instead of 15
}
OFFLINE = (
    "; to keep the metrics on disk for `wandb sync`: --set options.trackers.wandb.mode=offline"
)


class _Line(Document):
    """A line of history.jsonl; beside the step it has what was measured."""

    model_config = ConfigDict(extra="allow")
    step: Count
    steps: Count


class WandbTracker:
    """Keeps all steps in wandb/history.jsonl, to send them again where the bake resumes.

    W&B cannot delete steps, and rewinding a run is a preview that a server may not support. A kill
    may lose the last 0.1 seconds of W&B's own file, and nothing of history.jsonl.
    """

    def __init__(
        self,
        *,
        project: str,
        name: str | None,
        entity: str | None,
        mode: Literal["online", "offline"],
        timeout: float,
    ) -> None:
        self._project, self._name, self._entity, self._mode = project, name, entity, mode
        self._timeout = timeout
        self._run: wandb.Run | None = None
        self._complete = False

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """Start a run on W&B with the steps up to `step`, and delete the earlier runs' files.

        Raises:
            BakeError: There is no key, or W&B does not start the run.
        """
        folder = folder.resolve()  # wandb's process has another working folder
        home = folder / "wandb"
        home.mkdir(exist_ok=True)  # without it, wandb would write to a temporary folder
        earlier_runs = list(home.glob("*run-*-*"))
        try:
            run = self._start_run(folder, config)
        except wandb.Error as error:
            message = "tracker wandb: " + str(error).partition("\n")[0]
            raise BakeError(message + (OFFLINE if self._mode == "online" else "")) from None
        history = home / "history.jsonl"
        lines = read_own_lines(_Line, history)
        kept = [line.model_dump() for line in lines if step and line.step <= step]
        write_atomic(history, "".join(json.dumps(line) + "\n" for line in kept))
        self._history = JsonLines(history)
        self._run = run
        for line in kept:
            self._send(run, line)
        for files in earlier_runs:
            shutil.rmtree(files)

    def log(self, metrics: StepMetrics) -> None:
        """Send one step, without what was not measured."""
        fields = {key: value for key, value in asdict(metrics).items() if value is not None}
        line = {"_timestamp": time.time(), **fields}
        self._history.append(line)
        assert self._run is not None
        self._send(self._run, line)

    def finish(self) -> None:
        """Finish the run: as failed where its last step was not logged."""
        if self._run is not None:
            self._run.finish(exit_code=0 if self._complete else 1)
            self._history.close()

    def _send(self, run: wandb.Run, line: dict[str, Any]) -> None:
        run.log(line, step=line["step"], commit=True)
        self._complete = line["step"] == line["steps"]

    def _start_run(self, folder: Path, config: Mapping[str, object]) -> wandb.Run:
        # The process that wandb starts reads these from the environment alone: the folder of its
        # own log, no reports of its use, and on stderr no more than warnings.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SHOW_INFO", "false")
        settings = wandb.setup(wandb.Settings(mode=self._mode)).settings
        if self._mode == "online" and not wbauth.authenticate_session(
            host=settings.base_url, source="promptbake", prompt=False
        ):
            raise wandb.Error("no API key: set WANDB_API_KEY, or run `wandb login`")
        return wandb.init(
            dir=folder,
            project=self._project,
            name=self._name or folder.name,
            entity=self._entity,
            mode=self._mode,
            config=dict(config),
            reinit="create_new",  # other trackers' runs continue
            settings=wandb.Settings(
                init_timeout=self._timeout, finish_timeout=self._timeout, **SETTINGS
            ),
        )
