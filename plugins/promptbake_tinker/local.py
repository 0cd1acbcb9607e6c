"""The loopback server as a process of this one's own, for as long as this one lives."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from promptbake.errors import BakeError
from promptbake_tinker.service import started

START_SECONDS = 120.0  # it imports torch, and loads a model
KEY = "tml-loopback"


class LocalServer:
    """`python -m promptbake_tinker.loopback`; it ends when this process does, killed or not."""

    key = KEY

    def __init__(self, model: Path, state: Path) -> None:
        self._model = model
        os.environ["TINKER_TELEMETRY"] = "0"  # there is nobody to send it to
        state.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "promptbake_tinker.loopback", "--exit-with-parent"]
        self._process = subprocess.Popen(
            [*command, "--model", str(model), "--state", str(state), "--port", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        atexit.register(self.close)

    @cached_property
    def url(self) -> str:
        """Its address, once it is there. Raises BakeError where it could not start."""
        assert self._process.stdout is not None
        try:
            url = started(self._process.stdout.readline).result(START_SECONDS).strip()
        except TimeoutError:
            self.close()
            url = ""
        if not url:
            assert self._process.stderr is not None
            reason = (self._process.stderr.read().strip().splitlines() or ["no reason"])[-1]
            raise BakeError(
                f"model.name = '{self._model}': the local server did not start: {reason}"
            )
        return url

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
