"""Where the contestants run: TRL's environment, a process for each, and the code they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from local_bench.records import TRL, Job
from promptbake.errors import BakeError

ROOT = Path(__file__).resolve().parents[2]
TRL_VERSION = "1.16.0"
OWN_CODE = frozenset({"ours", "sft"})  # what depends on promptbake's own speed
Listener = Callable[[str], None]


def make_trl_environment(folder: Path) -> Path:
    """A virtual environment with TRL on top of this one's packages; returns its Python.

    torch, transformers and peft are this environment's, so that all contestants have the same.
    """
    python = folder / "bin" / "python"
    wanted = f"trl=={TRL_VERSION}"
    if (folder / wanted).exists():
        return python
    _checked([sys.executable, "-m", "venv", "--clear", str(folder)], "making TRL's environment")
    (own,) = (folder / "lib").glob("python*/site-packages")
    ours = [path for path in sys.path if Path(path).name == "site-packages"]
    lines = "".join(f"; site.addsitedir({json.dumps(path)})" for path in ours)
    (own / "promptbake_bench.pth").write_text(f"import site{lines}\n")
    constraints = str(ROOT / "ci" / "constraints.txt")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _checked([*install, "--constraint", constraints, wanted], f"installing {wanted}")
    (folder / wanted).touch()
    return python


def run_child(job: Job, trl: Path, listen: Listener) -> None:
    """Run a job in a process of its own, and hand on what it prints.

    Raises:
        BakeError: It failed; the message has the last line of its log.
    """
    python = str(trl) if job.contestant in TRL else sys.executable
    command = [python, "-P", "-m", "local_bench.child", job.model_dump_json()]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "ci"),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    job.log_file.parent.mkdir(parents=True, exist_ok=True)
    with job.log_file.open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    listen(line)
            except BaseException:
                child.kill()
                raise
    if child.returncode:
        said = job.log_file.read_text("utf-8").strip().splitlines() or ["it said nothing"]
        raise BakeError(f"{job.contestant} failed ({job.log_file}): {said[-1]}")


def code_digest(contestant: str, prompt: Path, root: Path = ROOT) -> str:
    """SHA-256 of the prompt and the sources that a contestant's result depends on."""
    folders = [root / "ci" / "local_bench"]
    if contestant in OWN_CODE:
        folders += [root / "core", root / "plugins"]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    settings = root / "core" / "promptbake" / "profiles"
    files += [*settings.rglob("*.toml"), prompt, *prompt.parent.glob(f"{prompt.stem}.toml")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _checked(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise BakeError(f"{what} failed: {said[-1]}; leave TRL out by --contestants ours,reference")
