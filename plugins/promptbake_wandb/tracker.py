"""A run on W&B for each session, which is told all the steps that count."""

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
from wandb.sdk.lib import wbauth

from promptbake import BakeError, JsonLines, StepMetrics, read_json_lines, write_atomic

# Without what W&B does of its own accord: it looks at the machine, the code, the console and the
# installed packages. Any: the values are for parameters of many types.
PLAIN: dict[str, Any] = {
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
    "x_transaction_log_flush_interval": 0.1,  # seconds, in the place of 15
}
OFFLINE = (
    "; to keep the metrics on disk for `wandb sync`: --set options.trackers.wandb.mode=offline"
)


class WandbTracker:
    """Keeps what it was told in wandb/told.jsonl, to tell it again to the run of a later session.

    W&B can neither take back steps nor promise to join sessions: rewinding a run is a preview that
    a server may refuse. And a kill may cost W&B's own file the last 0.1 seconds; told.jsonl it
    costs nothing.
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
        self._whole = False

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        """Begin a run on W&B and tell it the steps up to `step`; earlier sessions' files go.

        Raises BakeError where there is no key, or where W&B does not begin the run.
        """
        folder = folder.resolve()  # wandb's process has a working folder of its own
        home = folder / "wandb"
        home.mkdir(exist_ok=True)  # where that fails, wandb would write to a temporary folder
        earlier = list(home.glob("*run-*-*"))
        try:
            run = self._begin(folder, config)
        except wandb.Error as error:
            message = "tracker wandb: " + str(error).partition("\n")[0]
            raise BakeError(message + (OFFLINE if self._mode == "online" else "")) from None
        told = home / "told.jsonl"
        kept = [line for line in read_json_lines(told) if step and line["step"] <= step]
        write_atomic(told, "".join(json.dumps(line) + "\n" for line in kept))
        self._told = JsonLines(told)
        self._run = run
        for line in kept:
            self._tell(run, line)
        for session in earlier:
            shutil.rmtree(session)

    def log(self, metrics: StepMetrics) -> None:
        """Tell one step; what was not measured is left out."""
        fields = {key: value for key, value in asdict(metrics).items() if value is not None}
        line = {"_timestamp": time.time(), **fields}
        self._told.append(line)
        assert self._run is not None
        self._tell(self._run, line)

    def finish(self) -> None:
        """End the run; it has failed where its last step did not come."""
        if self._run is not None:
            self._run.finish(exit_code=0 if self._whole else 1)
            self._told.close()

    def _tell(self, run: wandb.Run, line: dict[str, Any]) -> None:
        run.log(line, step=line["step"], commit=True)
        self._whole = line["step"] == line["steps"]

    def _begin(self, folder: Path, config: Mapping[str, object]) -> wandb.Run:
        # What wandb takes from the environment alone, for the process that it starts: where its
        # own log goes, no reports of its use, and on stderr no more than warnings.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SHOW_INFO", "false")
        settings = wandb.setup(wandb.Settings(mode=self._mode)).settings
        if self._mode == "online" and not wbauth.authenticate_session(
            host=settings.base_url, source="promptbake", prompt=False
        ):
            raise wandb.Error("there is no key: set WANDB_API_KEY, or run `wandb login`")
        return wandb.init(
            dir=folder,
            project=self._project,
            name=self._name or folder.name,
            entity=self._entity,
            mode=self._mode,
            config=dict(config),
            reinit="create_new",  # other trackers' runs go on
            settings=wandb.Settings(
                init_timeout=self._timeout, finish_timeout=self._timeout, **PLAIN
            ),
        )
