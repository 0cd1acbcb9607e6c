"""`kill -9` at any moment, and the same command again."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import Process, promptbake
from run_folder import MOCK, ids, read_lines, settings

SETTINGS = settings(
    "data.temperatures=[0.7, 1.0]",
    "data.max_tokens=40",
    "train.epochs=1",
    "train.save_every=2",
    "train.eval_every=3",
)
N_STEPS = 20
ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "promptbake.json")


@dataclass(frozen=True)
class Reference:
    """A run that was not interrupted: after its data stage, and in the end."""

    with_data: Path
    baked: Path


@dataclass(frozen=True)
class Interrupted:
    """The same run, which is to be interrupted."""

    folder: Path
    prompt: Path

    def start(self, stage: str) -> Process:
        """The stage in a process of its own."""
        return Process(self.prompt.with_suffix(".log"), stage, self.prompt, *MOCK, *SETTINGS)

    def finish(self, stage: str) -> str:
        """The stage to its end; what it printed."""
        result = promptbake(stage, self.prompt, *MOCK, *SETTINGS)
        assert result.code == 0, result.err
        return result.err


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    with_data, baked = folder / "runs" / "data", folder / "runs" / "baked"
    prompt = folder / "quiet.md"
    prompt.write_text("Answer softly.")
    assert promptbake("data", prompt, *MOCK, *SETTINGS, "--run", with_data).code == 0
    shutil.copytree(with_data, baked)
    assert promptbake("bake", prompt, *MOCK, *SETTINGS, "--run", baked).code == 0
    return Reference(with_data, baked)


@pytest.fixture
def interrupted(tmp_path: Path) -> Interrupted:
    prompt = tmp_path / "quiet.md"
    prompt.write_text("Answer softly.")
    return Interrupted(tmp_path / "runs" / "quiet", prompt)


def test_data_resumes_after_a_kill(interrupted: Interrupted, reference: Reference) -> None:
    run = interrupted.folder
    interrupted.start("data").kill_when((run / "run.json").exists)
    interrupted.start("data").kill_when(lambda: size(run / "data.jsonl") > 0)
    first = ids(run)
    interrupted.start("data").kill_when(lambda: size(run / "data.jsonl") > 14_000)
    second = ids(run)
    assert set(first) < set(second)

    printed = interrupted.finish("data")
    assert f"resuming after {len(second)} earlier responses" in printed
    assert len(ids(run)) == len(set(ids(run))) == 90
    for name in ("data.jsonl", "held_out.jsonl"):
        assert sorted_lines(run / name) == sorted_lines(reference.with_data / name)


def test_an_incomplete_line_is_removed_and_its_conversation_sampled_again(
    interrupted: Interrupted, reference: Reference
) -> None:
    run = interrupted.folder
    shutil.copytree(reference.with_data, run)
    lines = (run / "data.jsonl").read_bytes().splitlines(keepends=True)
    (run / "data.jsonl").write_bytes(b"".join(lines[:50]) + lines[50][:70])
    unfinish(run, "data")

    printed = interrupted.finish("data")
    assert "removed 1 incomplete line(s) that an earlier run left" in printed
    others = [(run / name).read_bytes() for name in ("held_out.jsonl", "rejected.jsonl")]
    stored = 50 + sum(content.count(b"\n") for content in others)
    assert f"resuming after {stored} earlier responses" in printed
    assert sorted_lines(run / "data.jsonl") == sorted_lines(reference.with_data / "data.jsonl")


def test_deleted_conversations_are_sampled_again(
    interrupted: Interrupted, reference: Reference
) -> None:
    run = interrupted.folder
    shutil.copytree(reference.with_data, run)
    (run / "data.jsonl").unlink()
    interrupted.finish("data")
    assert sorted_lines(run / "data.jsonl") == sorted_lines(reference.with_data / "data.jsonl")


def test_bake_ends_with_the_same_bytes_however_often_it_was_killed(
    interrupted: Interrupted, reference: Reference
) -> None:
    run = interrupted.folder
    shutil.copytree(reference.with_data, run)
    interrupted.start("bake").kill_when(lambda: len(list(run.glob("teacher_logprobs/*"))) > 10)
    interrupted.start("bake").kill_when(lambda: len(list(run.glob("checkpoints/step-*"))) > 0)
    interrupted.start("bake").kill_when(lambda: last_step(run) >= 7)
    interrupted.start("bake").kill_when(lambda: last_step(run) > 12)
    before = (run / "metrics.jsonl").read_text().splitlines()
    assert not (run / "adapter").exists()

    interrupted.finish("bake")
    after = (run / "metrics.jsonl").read_text().splitlines()
    assert after[:13] == before[:13]  # with their times: nothing before step 12 was done again
    for name in ADAPTER:
        assert (run / "adapter" / name).read_bytes() == (
            reference.baked / "adapter" / name
        ).read_bytes()
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == list(range(N_STEPS + 1))
    assert measured(run) == measured(reference.baked)


def test_what_a_kill_left_half_written_is_deleted(
    interrupted: Interrupted, reference: Reference
) -> None:
    run = interrupted.folder
    shutil.copytree(reference.with_data, run)
    shutil.rmtree(run / "teacher_logprobs")
    (run / "teacher_logprobs").mkdir()
    interrupted.start("bake").kill_when(lambda: bool(list(run.glob("teacher_logprobs/.*.partial"))))
    owner = json.loads((run / "run.json").read_bytes())["id"]
    (run / "checkpoints" / f".step-000004-{owner}-abc.partial").mkdir(parents=True)
    other = run / ".step-000004-abc.partial"
    other.touch()
    interrupted.finish("bake")
    assert list(run.rglob(".*")) == [other]


def unfinish(run: Path, stage: str) -> None:
    """Put the stage on record as begun, as a kill leaves it."""
    record = json.loads((run / "run.json").read_bytes())
    record["stages"][stage]["done"] = False
    (run / "run.json").write_text(json.dumps(record))


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def last_step(run: Path) -> int:
    file = run / "metrics.jsonl"
    whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return json.loads(whole[-1])["step"] if whole else 0


def measured(run: Path) -> list[dict[str, object]]:
    """The metrics without the time that each step took."""
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_lines(run / "metrics.jsonl")
    ]


def sorted_lines(file: Path) -> list[bytes]:
    return sorted(file.read_bytes().splitlines())


def test_a_stopped_bake_is_kept_as_it_is_after_the_last_saved_step(
    interrupted: Interrupted, reference: Reference
) -> None:
    run = interrupted.folder
    shutil.copytree(reference.with_data, run)
    keep = ("bake", interrupted.prompt, *MOCK, *SETTINGS, "--keep")
    assert "--keep found no stopped bake" in promptbake(*keep).complaint
    bake = interrupted.start("bake")
    bake.signal_when(lambda: len(list(run.glob("checkpoints/step-*"))) > 0, signal.SIGINT)
    assert "or with --keep to keep the adapter" in bake.result().err
    kept = promptbake(*keep)
    steps = json.loads((run / "run.json").read_text())["stages"]["bake"]["steps"]
    assert f"stopped early, after {steps} of " in kept.out
    assert "is baked already" in interrupted.finish("bake")
    assert promptbake("verify", interrupted.prompt, *MOCK, *SETTINGS).code in (0, 1)
