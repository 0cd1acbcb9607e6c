"""A fake server as a child process of this one, for as long as this one lives."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cached_property

from promptbake import BakeError, run_in_thread

START_SECONDS = 120.0  # it imports torch, and loads a model
END_SECONDS = 5.0


class ChildServer:
    """`python -m promptbake_loopback`; it ends when this process does, killed or not.

    `subject` begins the message where it does not start.
    """

    def __init__(self, *arguments: str, subject: str) -> None:
        self._subject = subject
        # -P: the current folder, which is the user's, is not on its sys.path.
        command = [sys.executable, "-P", "-m", "promptbake_loopback", *arguments]
        # Its complaints go to a file: nobody would empty a pipe.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, "--exit-with-parent"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        atexit.register(self.close)

    @cached_property
    def url(self) -> str:
        """Its address, once it answers. Raises BakeError where it could not start."""
        assert self._process.stdout is not None
        try:
            url = run_in_thread(self._process.stdout.readline).result(START_SECONDS).strip()
        except TimeoutError:
            url = ""
        if not url:
            self.close()  # then its last line is whole
            raise BakeError(f"{self._subject}: the local server did not start: {self._last_line()}")
        return url

    def check_alive(self) -> None:
        """Raise BakeError where it has ended."""
        if self._process.poll() is not None:
            raise BakeError(
                f"the local server has ended: {self._last_line()}; run the same command to resume"
            )

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _last_line(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it did not say why"])[-1]
