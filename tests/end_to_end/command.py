"""Running the command `promptbake`: in this process, or in one of its own that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from promptbake.cli.main import main

# The server imports what takes seconds once; each process that it forks starts at once.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "promptbake.stages.bake",
        "promptbake.cli.main",
        "promptbake_mock.tiny",
        "promptbake_openai.provider",
    ]
)
PATIENCE = 60  # seconds


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line by which it told what the user can mend."""
        assert self.code == 2, self
        assert "Traceback" not in self.err
        line = self.err.splitlines()[-1]
        assert line.startswith("promptbake: ")
        return line.removeprefix("promptbake: ")


def promptbake(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    code, out, err = 0, StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class CrashPoint:
    """The moment before the `number`th change of a folder's files, counted from 1."""

    folder: Path
    number: int


class Process:
    """A command at work in a process of its own.

    `max_file_bytes` makes it see a full disk; it is killed at `crash`.
    """

    def __init__(
        self,
        log: Path,
        *arguments: str | Path,
        max_file_bytes: int | None = None,
        crash: CrashPoint | None = None,
    ) -> None:
        self._log = log
        words = [str(argument) for argument in arguments]
        self._process = CONTEXT.Process(
            target=_work, args=(log, words, max_file_bytes, crash, dict(os.environ), Path.cwd())
        )
        self._process.start()

    def wait_for(self, moment: Callable[[], bool]) -> None:
        """Wait for a moment while the process is at work."""
        deadline = time.monotonic() + PATIENCE
        while not moment():
            assert self._process.is_alive(), f"it ended early: {self._log.read_text()}"
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def signal_when(self, moment: Callable[[], bool], number: signal.Signals) -> None:
        """Wait for a moment and send a signal to the process."""
        self.wait_for(moment)
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill_when(self, moment: Callable[[], bool]) -> None:
        """Wait for a moment and `kill -9` the process."""
        self.signal_when(moment, signal.SIGKILL)
        self._process.join()
        assert self._process.exitcode == -signal.SIGKILL

    def result(self) -> Result:
        """Wait for its end. What it printed is all in `err`."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None
        return Result(self._process.exitcode, "", self._log.read_text())


CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


def _kill_at(crash: CrashPoint) -> None:
    """Send this process a SIGKILL when it is about to make that change."""
    below, seen = f"{crash.folder.resolve()}/", 0

    def before(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changes = event in CHANGES
        if not changes or not isinstance(arguments[0], str | Path):
            return
        in_open_folder = event in {"os.remove", "os.rmdir"} and arguments[1] != -1
        if in_open_folder or os.path.abspath(arguments[0]).startswith(below):
            seen += 1
            if seen == crash.number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)


def _work(
    log: Path,
    arguments: list[str],
    max_file_bytes: int | None,
    crash: CrashPoint | None,
    environment: dict[str, str],
    folder: Path,
) -> None:
    os.chdir(folder)
    os.environ.clear()  # the server that forks was started with another test's
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    if crash is not None:
        _kill_at(crash)
    main(arguments)
