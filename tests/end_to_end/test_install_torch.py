"""Which build of PyTorch `make setup` takes, with a Python that records what it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "ci" / "install_torch.sh"
LINUX = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the choice is Linux's alone")
PYTHON = """#!/bin/sh
case "$*" in
  *"import torch"*) test -n "$BUILD" && echo "$BUILD" ;;
  *urllib*) test "$INDEX" != silent ;;
  *freeze*) printf '%s\\n' numpy==2.4.6 torch==2.13.0 nvidia-cublas-cu13==1 cuda-bindings==1 \\
    triton==3 ;;
  *) echo "$*" >> asked; test "$INDEX" != broken ;;
esac
"""
CPU = (
    "-m pip --disable-pip-version-check install --quiet --constraint ci/constraints.txt --no-deps "
    "--index-url https://download.pytorch.org/whl/cpu torch"
)
UNINSTALL = "-m pip uninstall --quiet --yes torch nvidia-cublas-cu13 cuda-bindings triton"


def install(
    folder: Path, torch: str = "", build: str = "", index: str = "answers", gpu: bool = False
) -> tuple[int, str, list[str]]:
    """The exit status, what was printed, and what Python was asked to do.

    Args:
        folder: Where the script and its .venv are.
        torch: The user's TORCH.
        build: The build of PyTorch that is installed.
        index: PyTorch's own index is "silent", "broken" (it answers, pip fails) or "answers".
        gpu: Whether nvidia-smi finds one.
    """
    for name in ("ci", ".venv/bin", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(SCRIPT, folder / "ci")
    smi = f"#!/bin/sh\nexit {0 if gpu else 9}\n"
    for name, text in ((".venv/bin/python", PYTHON), ("bin/nvidia-smi", smi)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    settings = {"TORCH": torch, "BUILD": build, "INDEX": index}
    done = subprocess.run(
        [folder / "ci" / SCRIPT.name],
        env=os.environ | settings | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    asked = folder / "asked"
    lines = asked.read_text().splitlines() if asked.exists() else []
    return done.returncode, done.stdout + done.stderr, lines


@LINUX
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_build_is_taken(tmp_path: Path) -> None:
    status, printed, asked = install(tmp_path)
    assert (status, asked) == (0, [CPU])
    assert "no NVIDIA GPU" in printed
    assert "make setup TORCH=cuda" in printed


def test_with_a_gpu_the_choice_is_pips(tmp_path: Path) -> None:
    assert install(tmp_path, gpu=True) == (0, "", [])


@LINUX
def test_cpu_by_hand_counts_with_a_gpu_too(tmp_path: Path) -> None:
    assert install(tmp_path, "cpu", gpu=True) == (0, "", [CPU])


@LINUX
@pytest.mark.parametrize(("index", "asked"), [("silent", []), ("broken", [CPU])])
def test_without_pytorchs_index_the_choice_is_pips(
    tmp_path: Path, index: str, asked: list[str]
) -> None:
    status, printed, lines = install(tmp_path, "cpu", index=index)
    assert (status, lines) == (0, asked)
    assert printed.startswith("download.pytorch.org cannot be used: PyTorch is what pip finds")


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_what_is_installed_stays(tmp_path: Path, build: str) -> None:
    assert install(tmp_path, build=build) == (0, "", [])
    assert install(tmp_path, build, build=build) == (0, "", [])


@LINUX
def test_another_build_by_hand_replaces_it(tmp_path: Path) -> None:
    assert install(tmp_path, "cpu", build="cuda") == (0, "", [UNINSTALL, CPU])


def test_the_cuda_build_by_hand_comes_from_where_pip_finds_it(tmp_path: Path) -> None:
    assert install(tmp_path, "cuda", build="cpu") == (0, "", [UNINSTALL])


def test_an_unknown_build_is_refused(tmp_path: Path) -> None:
    status, printed, asked = install(tmp_path, "rocm")
    assert (status, asked) == (2, [])
    assert printed == "TORCH=rocm: give TORCH=cpu or TORCH=cuda\n"
