"""The loopback server as a process of this one's own, for as long as this one lives."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path

from promptbake.errors import BakeError

KEY = "tml-loopback"


class LocalServer:
    """`python -m promptbake_tinker.loopback`; it ends when this process does, killed or not."""

    key = KEY

    def __init__(self, model: Path, state: Path) -> None:
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
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            assert self._process.stderr is not None
            reason = (self._process.stderr.read().strip().splitlines() or ["no reason"])[-1]
            raise BakeError(f"model.name = '{model}': the local server did not start: {reason}")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
