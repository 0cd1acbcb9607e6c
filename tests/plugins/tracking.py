"""Runs of a tracker: in this process, or in one that is killed and whose traces are looked at."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from promptbake import StepMetrics, Tracker

FIELDS = tuple(field.name for field in fields(StepMetrics))
KILLED = """
import os, signal, sys, time
from pathlib import Path
from tracking import track_steps
exec(sys.argv[2])
tracker.start(Path(sys.argv[1]), {"seed": 0}, 0)
track_steps(tracker, 0, 3)
time.sleep(float(sys.argv[3]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def track(tracker: Tracker, folder: Path, first: int, last: int) -> None:
    """A run of 9 steps that begins or resumes after step `first`, and gets to step `last`."""
    tracker.start(folder, {"seed": 0}, first)
    track_steps(tracker, first, last)
    tracker.finish()


def track_steps(tracker: Tracker, first: int, last: int) -> None:
    for step in range(first + bool(first), last + 1):
        tracker.log(StepMetrics(step, 9, 1, loss=step / 3))


@dataclass(frozen=True)
class ProcessResult:
    """How a process ended, what it printed, and what it did outside the run's folder."""

    code: int
    out: str
    err: str
    files: list[str]  # in its home, which is its working folder
    connections: int  # to a proxy, or to the address that is given as a service's


def run_process(
    tmp_path: Path, script: str, *arguments: str | Path | float, **environment: str
) -> ProcessResult:
    """Run a script; SERVICE in its environment is an address that listens and never responds."""
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WANDB_", "TRACKIO_", "HF_", "XDG_", "NETRC"))
        }
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
        own = {name: value.replace("SERVICE", address) for name, value in environment.items()}
        own |= {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parent)}
        ended = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=home,
            env=inherited | proxies | own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
        return ProcessResult(ended.returncode, ended.stdout, ended.stderr, files, _count(listener))


def killed_run(tmp_path: Path, create: str, pause: float = 0.0, **environment: str) -> Path:
    """The folder of a run that was killed after step 3, `pause` seconds later.

    It has printed nothing, written in that folder alone, and connected to nothing. `create` is code
    that makes a `tracker`.
    """
    folder = tmp_path / "pirate"
    folder.mkdir()
    result = run_process(tmp_path, KILLED, folder, create, pause, **environment)
    assert result == ProcessResult(-signal.SIGKILL, "", "", [], 0)
    return folder


def _count(listener: socket.socket) -> int:
    listener.setblocking(False)
    connections = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return connections
        connections += 1
