"""A full disk: one line, nothing half-written, and the same command resumes once there is room."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
from command import Process, Result, promptbake
from run_folder import MOCK, PROMPT, Finished, ids, read_lines, settings, tree

from promptbake.files import JsonLines

BRIEF = settings("train.epochs=1", "verify.max_tokens=4", "verify.min_gap_closed=-9")
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")


def squeezed(stage: str, prompt: Path, max_file_bytes: int, *settings: str) -> Result:
    """A stage in a process that cannot write more than so much to any file."""
    log = prompt.with_suffix(".log")
    arguments = [stage, prompt, *MOCK, *settings, *(() if stage == "data" else BRIEF)]
    return Process(log, *arguments, max_file_bytes=max_file_bytes).result()


@pytest.fixture(scope="module")
def adapter(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a bake with room makes of the same data."""
    folder = tmp_path_factory.mktemp("room")
    prompt = folder / "pirate.md"
    prompt.write_text(PROMPT + "\n", "utf-8")
    run = shutil.copytree(finished.data, folder / "run")
    assert promptbake("bake", prompt, *MOCK, *BRIEF, "--run", run).code == 0
    return run / "adapter"


def test_data_resumes_once_there_is_room(finished: Finished, prompt: Path) -> None:
    run = Path("runs/pirate")
    small = ("--set", "teacher.top_k=1", "--set", "train.tail_draws=1")  # scores need less room
    result = squeezed("data", prompt, 5000, *small)
    assert "cannot be written: File too large; free some space" in result.complaint
    stored = ids(run)
    assert 0 < len(stored) < 50  # and every line of them is whole
    assert not hidden(run)

    assert promptbake("data", prompt, *MOCK).code == 0
    for name in ("data.jsonl", "held_out.jsonl"):
        assert (run / name).read_bytes() == (finished.folder / name).read_bytes()


def test_a_device_without_room_is_no_line_of_a_file() -> None:
    with pytest.raises(OSError, match="No space left on device"), JsonLines(Path("/dev/full")) as f:
        f.append({"a": 1})


@pytest.mark.parametrize("max_file_bytes", [1000, 4000, 60_000, 150_000])
def test_bake_resumes_once_there_is_room(
    adapter: Path, with_data: Path, prompt: Path, max_file_bytes: int
) -> None:
    """Room for not even run.json; for no log-probabilities; for no weights; for no optimiser."""
    run = with_data
    before = tree(run)
    result = squeezed("bake", prompt, max_file_bytes)
    assert "cannot be written: File too large; free some space" in result.complaint
    assert not hidden(run)
    assert not (run / "adapter").exists()
    assert not list(run.glob("checkpoints/*"))
    for file in run.glob("teacher_logprobs/*"):
        safetensors.torch.load_file(file)
    read_lines(run / "metrics.jsonl")
    if max_file_bytes == 1000:
        assert tree(run) == before

    assert promptbake("bake", prompt, *MOCK, *BRIEF).code == 0
    for name in ADAPTER:
        assert (run / "adapter" / name).read_bytes() == (adapter / name).read_bytes()


@pytest.mark.parametrize("max_file_bytes", [2000, 10_000])
def test_verify_keeps_what_it_had(own_copy: Path, prompt: Path, max_file_bytes: int) -> None:
    """Room for no verify.json; for no report."""
    report = (own_copy / "report.html").read_bytes()
    result = squeezed("verify", prompt, max_file_bytes)
    assert "cannot be written: File too large" in result.complaint
    assert not hidden(own_copy)
    assert (own_copy / "report.html").read_bytes() == report
    assert promptbake("verify", prompt, *MOCK, *BRIEF).code == 0


def hidden(run: Path) -> list[Path]:
    """What is not whole yet is written under hidden names."""
    return list(run.rglob(".*"))
