"""The loopback server as a process of this one's own, for as long as this one lives."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path

from promptbake.errors import BakeError
from promptbake.inflight import started

START_SECONDS = 120.0  # it imports torch, and loads a model
END_SECONDS = 5.0
KEY = "tml-loopback"


class LocalServer:
    """`python -m promptbake_tinker.loopback`; it ends when this process does, killed or not."""

    key = KEY

    def __init__(self, model: Path, state: Path) -> None:
        self._model = model
        os.environ["TINKER_TELEMETRY"] = "0"  # there is nobody to send it to
        state.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "promptbake_tinker.loopback", "--exit-with-parent"]
        # What it complains of goes to a file: nobody would empty a pipe.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, "--model", str(model), "--state", str(state), "--port", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
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
            url = ""
        if not url:
            self.close()  # it says no more, so it is ending: its last word is whole when it has
            raise BakeError(f"{self._model}: the local server did not start: {self._last_word()}")
        return url

    def check_alive(self) -> None:
        """Raise BakeError where it has ended."""
        if self._process.poll() is not None:
            raise BakeError(
                f"the local server has ended: {self._last_word()}; the same command goes on from "
                "here"
            )

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _last_word(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it did not say why"])[-1]
