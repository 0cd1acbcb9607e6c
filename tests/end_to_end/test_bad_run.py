"""Stages before their time, damaged adapters and runs: one clear line, exit code 2, no change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import promptbake
from run_folder import MOCK, Finished, refused, settings
from safetensors.torch import load_file, save_file

from promptbake.runs.run_folder import Run


def test_a_stage_before_its_time(finished: Finished, prompt: Path) -> None:
    assert "run `promptbake data`" in refused("bake", prompt)
    assert "run `promptbake data`" in refused("verify", prompt)
    assert "run `promptbake bake`" in refused("chat", prompt, "--message", "Hi")
    assert "run `promptbake verify`" in refused("report", prompt)
    shutil.copytree(finished.data, "runs/pirate")
    assert "run `promptbake bake`" in refused("verify", prompt)


def test_an_adapter_that_does_not_fit(own_copy: Path, prompt: Path) -> None:
    record = own_copy / "adapter" / "promptbake.json"
    true = record.read_text()

    def after(content: str) -> list[str]:
        record.write_text(content)
        return [
            refused(stage, prompt, *more)
            for stage, *more in (["verify"], ["chat", "--message", "Hi"])
        ]

    other = json.dumps(json.loads(true) | {"base_digest": "0", "base_model": "other"})
    assert all("is an adapter of another model, other" in line for line in after(other))
    foreign = json.dumps(json.loads(true) | {"backend": "cloud"})
    assert all("was baked by the backend 'cloud'" in line for line in after(foreign))
    assert all("is no record of an adapter" in line for line in after('{"backend": "mock"}'))
    assert all("is no record of an adapter" in line for line in after("{"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", lambda content: content[: len(content) // 2]),
        ("adapter_model.safetensors", lambda content: b""),
        ("adapter_model.safetensors", lambda content: b"\x02\0\0\0\0\0\0\0{}"),
        ("adapter_config.json", lambda content: b"{"),
        ("adapter_config.json", lambda content: content.replace(b'"r": 16', b'"r": 4')),
        ("adapter_config.json", lambda content: content.replace(b'"LORA"', b'"LORE"')),
    ],
    ids=["cut short", "empty", "no weights", "no JSON", "another rank", "another kind"],
)
def test_a_broken_adapter(
    own_copy: Path, prompt: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    file = own_copy / "adapter" / name
    file.write_bytes(damage(file.read_bytes()))
    assert "runs/pirate/adapter: is no adapter for mock" in refused("verify", prompt)


def test_an_adapter_whose_kl_is_not_finite_says_what_to_lower(own_copy: Path, prompt: Path) -> None:
    file = own_copy / "adapter" / "adapter_model.safetensors"
    save_file({name: weights * torch.nan for name, weights in load_file(file).items()}, file)
    line = promptbake("verify", prompt, *MOCK).complaint
    assert line.startswith("runs/pirate/adapter: the KL of the arm baked is nan; lower train.lr")


def test_a_bake_that_diverges_says_what_to_lower(own_copy: Path, prompt: Path) -> None:
    line = promptbake("bake", prompt, *MOCK, *settings("train.lr=1e30")).complaint
    assert "the loss is nan; lower train.lr and bake again" in line
    assert not (own_copy / "adapter").exists()


def test_a_refused_bake_keeps_the_present_adapter(own_copy: Path, prompt: Path) -> None:
    wrong = settings("train.loss=jsd", "options.losses.jsd.beta=2")
    assert "expected 0 < beta < 1" in refused("bake", prompt, *wrong)
    data = own_copy / "data.jsonl"
    line = data.read_text("utf-8").splitlines()[0]
    data.write_text(line.replace('"content": "', '"content": "' + "Arr! " * 500) + "\n", "utf-8")
    assert "the context of mock holds 2048" in refused("bake", prompt)


def test_a_pattern_that_is_none_is_refused_before_verify_works(
    own_copy: Path, prompt: Path
) -> None:
    wrong = settings("verify.evaluators=['checks']", "options.evaluators.checks.patterns.arr='('")
    assert "'(' is no regular expression" in refused("verify", prompt, *wrong)


def test_damaged_files_of_the_run_itself(own_copy: Path, prompt: Path) -> None:
    data, record = own_copy / "data.jsonl", own_copy / "run.json"
    lines = data.read_text("utf-8").splitlines(keepends=True)
    data.write_text("".join([*lines[:2], '{"id": \n', *lines[2:]]), "utf-8")
    assert "runs/pirate/data.jsonl:3: is not JSON" in refused("bake", prompt)
    system = lines[0].replace(
        '{"role": "user"', '{"role": "system", "content": "x"}, {"role": "user"'
    )
    data.write_text(system, "utf-8")
    assert "data.jsonl:1: holds a system message" in refused("bake", prompt)
    data.write_text(lines[0].replace('"query_id"', '"query"'), "utf-8")
    assert "data.jsonl:1: has no 'query_id'" in refused("bake", prompt)
    data.write_text("\n", "utf-8")
    assert "data.jsonl: holds no conversations" in refused("bake", prompt)
    data.write_text((own_copy / "held_out.jsonl").read_text("utf-8"), "utf-8")
    assert "ask what data.jsonl asks, too" in refused("verify", prompt)
    record.write_text("{")
    assert "runs/pirate/run.json: is not JSON" in refused("bake", prompt)
    record.write_text('{"stages": 3}')
    assert "runs/pirate/run.json: stages: expected a JSON object" in refused("bake", prompt)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00."])
def test_a_damaged_training_state_is_named(own_copy: Path, prompt: Path, content: bytes) -> None:
    (state,) = (own_copy / "checkpoints").iterdir()
    (state / "optimizer.pt").write_bytes(content)
    record = json.loads((own_copy / "run.json").read_bytes())
    record["stages"]["bake"]["done"] = False
    (own_copy / "run.json").write_text(json.dumps(record))
    assert f"runs/pirate/checkpoints/{state.name}: is a damaged training" in refused("bake", prompt)


def test_a_data_file_of_unknown_origin_is_not_touched(prompt: Path) -> None:
    Path("data.jsonl").write_text('{"mine": 1}\n')
    assert "data.jsonl: already exists" in refused("data", prompt, "--run", ".")


def test_a_run_in_which_another_process_works(prompt: Path) -> None:
    with Run(Path("runs/pirate")).locked():
        for stage in ("data", "bake", "verify"):
            line = promptbake(stage, prompt, *MOCK).complaint
            assert "another promptbake is running in this run" in line
    assert promptbake("data", prompt, *MOCK, *settings("data.max_tokens=2")).code == 0
