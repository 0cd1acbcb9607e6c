"""Trackers in a process of their own, and in a whole bake by the command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from promptbake.cli.main import main
from promptbake.types import StepMetrics

FIELDS = tuple(field.name for field in fields(StepMetrics))
SETTINGS = ("data.n_queries=8", "data.held_out=2", "data.max_tokens=8", "train.epochs=2")


@dataclass(frozen=True)
class Outcome:
    """How a process ended, what it printed, and what it did beside the run's folder."""

    code: int
    out: str
    err: str
    files: list[str]  # in its home and its working folder
    calls: int  # for help: connections to a proxy, or to the address that was given as a service's


def run_apart(tmp_path: Path, script: str, *arguments: str | Path, **environment: str) -> Outcome:
    """A script in a process of its own; SERVICE in its environment is where somebody listens."""
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WANDB_", "TRACKIO_", "HF_", "XDG_", "NETRC"))
        }
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
        given = {name: value.replace("SERVICE", address) for name, value in environment.items()}
        ended = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=home,
            env=ours | proxies | {"HOME": str(home)} | given,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
        return Outcome(ended.returncode, ended.stdout, ended.stderr, files, _calls(listener))


def _calls(listener: socket.socket) -> int:
    listener.setblocking(False)
    calls = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return calls
        calls += 1


def bake(folder: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> list[dict[str, Any]]:
    """A whole bake of the mock model in a run's folder; what the tracker `jsonl` was told of it."""
    monkeypatch.chdir(folder.parent)
    prompt = folder.with_suffix(".md")
    prompt.write_text("Speak as a pirate, always.")
    chosen = [argument for setting in (*SETTINGS, *settings) for argument in ("--set", setting)]
    for stage in ("data", "bake"):
        with pytest.raises(SystemExit) as end:
            main([stage, str(prompt), "--profile", "mock", "--run", str(folder), *chosen])
        assert not end.value.code
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
