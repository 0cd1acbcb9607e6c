"""Stages before their time, damaged adapters and runs: one clear line, exit code 2, no change."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import Process, promptbake
from run_folder import MOCK, Finished, record_as_baked, refused, settings
from safetensors.torch import load_file, save_file

from promptbake.distill.checkpoints import CARD, digests
from promptbake.runs.run_folder import Run
from promptbake.testing import save_tiny


def test_a_stage_before_its_time(finished: Finished, prompt: Path) -> None:
    assert "run `promptbake data`" in refused("bake", prompt)
    assert "run `promptbake data`" in refused("verify", prompt)
    assert "run `promptbake bake`" in refused("chat", prompt, "--message", "Hi")
    assert "verify.json: does not exist; run `promptbake verify`" in refused("report", prompt)
    shutil.copytree(finished.data, "runs/pirate")
    assert "holds no adapter; run `promptbake bake`" in refused("verify", prompt)


def test_an_adapter_that_does_not_fit(own_copy: Path, prompt: Path) -> None:
    record = own_copy / "adapter" / "promptbake.json"
    true = record.read_text()

    def after(content: str) -> list[str]:
        record.write_text(content)
        record_as_baked(own_copy)
        return [
            refused(stage, prompt, *more)
            for stage, *more in (["verify"], ["chat", "--message", "Hi"])
        ]

    other = json.dumps(json.loads(true) | {"base_digest": "0", "base_model": "big"})
    foreign = json.dumps(json.loads(true) | {"backend": "cloud"})
    for content, problem in (
        (other, "adapter: is an adapter of another model, big; the model is mock, so set "
         "model.name=big or bake anew"),
        (foreign, "adapter: was baked by the backend 'cloud', and train.backend is 'mock'; use "
         "the profile that it was baked with"),
        *((text, "promptbake.json: is no record of an adapter: ")
          for text in ('{"backend": "mock"}', '{"size": 3}', "[]", "3", "{")),
    ):  # fmt: skip
        assert all(problem in line for line in after(content))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", lambda content: content[: len(content) // 2]),
        ("adapter_model.safetensors", lambda content: b""),
        ("adapter_model.safetensors", lambda content: b"\x02\0\0\0\0\0\0\0{}"),
        ("adapter_config.json", lambda content: b"{"),
        ("adapter_config.json", lambda content: content.replace(b'"r": 16', b'"r": 4')),
        ("adapter_config.json", lambda content: content.replace(b'"LORA"', b'"LORE"')),
        (
            "adapter_config.json",
            lambda content: re.sub(
                rb'(_modules": )\[.*?\]', rb'\1"(.*)*x"', content, flags=re.DOTALL
            ),
        ),
        (
            "adapter_config.json",
            lambda content: content.replace(
                b'"megatron_config": null', b'"megatron_config": {"a": 1}'
            ),
        ),
    ],
    ids=[
        "cut short",
        "empty",
        "no weights",
        "no JSON",
        "another rank",
        "another kind",
        "endless pattern",
        "imports a module",
    ],
)
def test_a_broken_adapter(
    own_copy: Path, prompt: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    file = own_copy / "adapter" / name
    content = file.read_bytes()
    file.write_bytes(damage(content))
    assert f"{name}: not as the bake left it (SHA-256)" in refused("verify", prompt)
    record_as_baked(own_copy)
    assert "runs/pirate/adapter: is no adapter" in refused("verify", prompt)
    assert "runs/pirate/adapter: is no adapter" in refused("export", prompt, "--to", "taken")


def test_an_adapter_whose_kl_is_not_finite_says_what_to_lower(own_copy: Path, prompt: Path) -> None:
    file = own_copy / "adapter" / "adapter_model.safetensors"
    save_file({name: weights * torch.nan for name, weights in load_file(file).items()}, file)
    record_as_baked(own_copy)
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
    line = edited(data.read_text("utf-8").splitlines()[0])
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
    data.write_text(lines[0].replace(" a", " b", 1), "utf-8")
    assert "data.jsonl:1: is damaged, or was edited" in refused("bake", prompt)
    data.write_text("\n", "utf-8")
    assert "data.jsonl: holds no conversations" in refused("bake", prompt)
    data.write_text((own_copy / "held_out.jsonl").read_text("utf-8"), "utf-8")
    assert "ask what data.jsonl asks, too" in refused("verify", prompt)
    record.write_text("{")
    assert "runs/pirate/run.json: is not JSON" in refused("bake", prompt)
    record.write_text('{"schema": 1, "versions": {}, "stages": 3}')
    assert "runs/pirate/run.json: stages: expected a JSON object" in refused("bake", prompt)


def test_damaged_lines_are_named_and_generated_again(
    finished: Finished, own_copy: Path, prompt: Path
) -> None:
    data, held_out = own_copy / "data.jsonl", own_copy / "held_out.jsonl"
    lines = data.read_text("utf-8").splitlines(keepends=True)
    lines[2] = lines[2].replace("e", "f", 1)
    lines[4] = lines[4][:30] + "\n"
    data.write_text("".join(lines), "utf-8")
    held_out.write_bytes(held_out.read_bytes()[:-9])
    result = promptbake("data", prompt, *MOCK)
    assert result.code == 0, result.err
    assert "runs/pirate/data.jsonl: 2 damaged lines (line 3, 5) are removed" in result.err
    assert "removed 1 incomplete line(s)" in result.err
    for name in ("data.jsonl", "held_out.jsonl"):
        whole, again = (sorted((run / name).read_bytes().splitlines()) for run in
                        (finished.folder, own_copy))  # fmt: skip
        assert whole == again


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_is_not_as_baked_is_baked_again(
    finished: Finished, own_copy: Path, prompt: Path, name: str
) -> None:
    file = own_copy / "adapter" / name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    (own_copy / "adapter" / "promptbake.json").unlink()
    result = promptbake("bake", prompt, *MOCK)
    assert f"{name}, promptbake.json: missing, or not as baked; baking again" in result.err
    baked = digests(finished.folder / "adapter")
    del baked[CARD]  # `verify` writes it
    assert digests(own_copy / "adapter") == baked
    assert "is baked already" in promptbake("bake", prompt, *MOCK).err


@pytest.mark.parametrize("file", ["chat_template.jinja", "model.safetensors"])
def test_another_model_in_the_same_folder_is_noticed(prompt: Path, file: str) -> None:
    folder = save_tiny(Path("model"))
    using = settings("train.backend=torch", "data.provider=self", "model.name=model",
                     "train.epochs=1", "data.max_tokens=4", "train.batch_size=40")  # fmt: skip
    for stage in ("data", "bake"):
        assert promptbake(stage, prompt, *MOCK, *using).code == 0
        assert "already" in promptbake(stage, prompt, *MOCK, *using).err
    save_tiny(Path("other"), seed=1)
    template = (folder / "chat_template.jinja").read_text() + " "
    (Path("other") / "chat_template.jinja").write_text(template)
    shutil.copy(Path("other") / file, folder / file)
    other = "when model had other weights, another tokenizer or another chat template"
    for stage in ("bake", "verify"):
        assert other in refused(stage, prompt, *using)
    assert other in refused("chat", prompt, "--message", "Hi", *using)
    assert (
        "data: weights changed since runs/pirate" in promptbake("data", prompt, *MOCK, *using).err
    )
    assert promptbake("bake", prompt, *MOCK, *using).code == 0


def edited(line: str) -> str:
    """A line of data.jsonl without its checksum, as one that is edited by hand should be."""
    return re.sub(r', "check": "\w+"', "", line)


@pytest.mark.parametrize("stage", ["data", "bake", "verify", "report"])
@pytest.mark.parametrize("run", [".", "..", "", "inner"])
def test_a_folder_that_is_no_run_is_not_touched(prompt: Path, stage: str, run: str) -> None:
    Path("inner").mkdir()
    for name in ("data.jsonl", ".video.mkv.partial", "verify.json", "inner/.x-1.partial"):
        Path(name).write_text('{"mine": 1}\n')
    expected = "is not empty" if run else "--run '': is no folder's name"
    assert expected in refused(stage, prompt, "--run", run)


@pytest.mark.parametrize("name", ["...md", "..md", "n\n.md"])
def test_a_prompt_whose_name_is_no_folders_is_refused(name: str) -> None:
    Path(name).write_text("Speak.")
    assert "its name must be one that a folder can have" in refused("data", name)


@pytest.mark.parametrize(
    ("stage", "setting"), [("data", "data.max_tokens=3"), ("bake", "train.epochs=1")]
)
def test_a_finished_bake_of_another_profile_is_replaced_only_by_force(
    own_copy: Path, prompt: Path, stage: str, setting: str
) -> None:
    file = own_copy / "run.json"
    record = json.loads(file.read_bytes())
    record["profile"], record["config"]["model"]["name"] = "local", "smollm2"
    file.write_text(json.dumps(record))
    line = refused(stage, prompt, *settings(setting))
    assert "runs/pirate: holds a finished bake with the profile local, model smollm2; " in line
    assert "give --run another folder (make: RUN=...), or replace it with --force" in line
    result = promptbake(stage, prompt, *MOCK, *settings(setting), "--force")
    assert result.code == 0, result.err
    assert own_copy.with_name("pirate~1").exists() == (stage == "data")


def test_a_run_in_which_another_process_works(prompt: Path) -> None:
    with Run(Path("runs/pirate")).locked():
        results = [promptbake(stage, prompt, *MOCK) for stage in ("bake", "verify")]
        results.append(Process(Path("log"), "data", prompt, *MOCK).result())
        for result in results:
            assert "runs/pirate: another promptbake is running in this run" in result.complaint
    assert not Path("runs/pirate").exists()
    assert promptbake("data", prompt, *MOCK, *settings("data.max_tokens=2")).code == 0
