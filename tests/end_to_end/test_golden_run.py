"""All stages, one after the other, on the tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from command import promptbake
from run_folder import MOCK, PROMPT, STAGES, Finished, read_lines, settings, tree
from safetensors.torch import load_file

from promptbake import __version__
from promptbake.testing.tiny import tiny_model, tiny_tokenizer
from promptbake.types import ARMS


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ends_well(finished: Finished, stage: str) -> None:
    assert finished.results[stage].code == 0, finished.results[stage].err


def test_the_run_folder_holds_what_the_design_says(finished: Finished) -> None:
    names = {path.name for path in finished.folder.iterdir()}
    files = (
        "run.json data.jsonl held_out.jsonl rejected.jsonl metrics.jsonl verify.json "
        "measurements.jsonl report.html evidence.json verify.junit.xml"
    )
    assert names == {*files.split(), "teacher_logprobs", "checkpoints", "adapter"}
    adapter = {path.name for path in (finished.folder / "adapter").iterdir()}
    weights = {"adapter_config.json", "adapter_model.safetensors", "promptbake.json"}
    assert adapter == {*weights, "README.md"}
    assert len(list((finished.folder / "teacher_logprobs").iterdir())) == 40
    assert len(list((finished.folder / "checkpoints").iterdir())) == 1


def test_the_record_has_the_versions_of_the_plugins_in_use(finished: Finished) -> None:
    names = ("jsonl", "losses", "mock", "self")
    assert finished.read_json("run.json")["plugins"] == dict.fromkeys(names, __version__)


def test_no_query_is_both_trained_on_and_held_out(finished: Finished) -> None:
    training, held_out = (
        read_lines(finished.folder / name) for name in ("data.jsonl", "held_out.jsonl")
    )
    assert len(training) == 40
    assert len(held_out) == 10
    questions = [
        {line["messages"][0]["content"] for line in lines} for lines in (training, held_out)
    ]
    assert not questions[0] & questions[1]
    for line in training + held_out:
        assert [message["role"] for message in line["messages"]] == ["user", "assistant"]


def test_verify_json_has_the_shape_that_scripts_read(finished: Finished) -> None:
    result = finished.read_json("verify.json")
    scripts_read = "version prompt backend model adapter held_out kl targets evaluators thresholds"
    also = {"passed", "seconds", "answers", "controls", "verdict"}
    also |= {"system_prompt", "origin", "queries"}
    assert set(result) == {*scripts_read.split(), *also}
    assert (result["version"], result["prompt"], result["backend"]) == (3, "pirate", "mock")
    assert (result["model"], result["adapter"]) == ("mock", "runs/pirate/adapter")
    assert set(result["held_out"]) == {"queries", "tokens"}
    assert result["held_out"]["queries"] == 10
    kl = result["kl"]
    values = "unit kind base baked reprompted gap_closed gap_closed_ci95 gap_closed_ci90 ci95"
    assert set(kl) == {*values.split(), "by_position", "top_1_agreement", "entropy"}
    assert (kl["unit"], kl["kind"]) == ("nats/token", "full")
    low, high = kl["gap_closed_ci95"]
    assert low <= kl["gap_closed"] <= high
    assert kl["gap_closed"] == pytest.approx(1 - kl["baked"] / kl["base"])
    assert result["passed"] is True
    assert result["verdict"]["outcome"] == "equivalent within margins"
    assert result["verdict"]["margins_changed"] == []
    assert result["controls"]["wrong prompt"]["refused"] is True
    assert set(result["seconds"]) == {"data", "bake", "verify"}
    assert {len(answer) for answer in result["answers"]} == {8}
    for answer in result["answers"]:
        assert set(answer["tokens"]) == set(answer["complete"]) == set(ARMS)
    assert len(result["answers"]) == 10


def test_the_result_tells_what_it_is_from(finished: Finished) -> None:
    result = finished.read_json("verify.json")
    lengths = [
        len(tiny_tokenizer().encode(text, add_special_tokens=False))
        for text in (PROMPT, "Be kind.")  # the second is the template's where no prompt is given
    ]
    assert result["system_prompt"]["tokens"] == lengths[0] - lengths[1]
    assert result["system_prompt"]["text"] == PROMPT
    assert result["origin"]["command"].startswith("promptbake verify ")
    assert result["origin"]["command"].endswith(" --profile mock")
    assert result["origin"]["profile"] == "mock"
    assert sum(each["tokens"] for each in result["queries"]) == result["held_out"]["tokens"]
    nats = sum(each["tokens"] * each["baked"] for each in result["queries"])
    assert nats / result["held_out"]["tokens"] == pytest.approx(result["kl"]["baked"])


def test_what_was_changed_is_on_record_beside_the_profiles_value(
    own_copy: Path, prompt: Path
) -> None:
    changes = settings("verify.min_gap_closed=0.25", "verify.max_tokens=24")
    assert promptbake("verify", prompt, *MOCK, *changes).code == 0
    origin = json.loads((own_copy / "verify.json").read_bytes())["origin"]
    assert origin["changed"] == {"verify.min_gap_closed": {"value": 0.25, "profile": 0.5}}
    assert "--set verify.min_gap_closed=0.25" in origin["command"]
    assert "verify.min_gap_closed" in (own_copy / "report.html").read_text("utf-8")


def test_the_held_out_kl_falls(finished: Finished) -> None:
    metrics = read_lines(finished.folder / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(41))
    curve = [line["held_out_kl"] for line in metrics if "held_out_kl" in line]
    kl = finished.read_json("verify.json")["kl"]
    assert curve[0] == pytest.approx(kl["base"])
    assert curve[-1] == pytest.approx(kl["baked"])
    assert curve[-1] < 0.5 * curve[0]


def test_a_second_run_says_that_it_is_done_and_changes_nothing(
    own_copy: Path, prompt: Path
) -> None:
    before = tree(own_copy)
    data = promptbake("data", prompt, *MOCK)
    bake = promptbake("bake", prompt, *MOCK)
    assert (data.code, bake.code) == (0, 0)
    assert "is complete already" in data.err
    assert "is baked already" in bake.err
    assert tree(own_copy) == before


def test_verify_exits_with_1_below_its_threshold(own_copy: Path, prompt: Path) -> None:
    result = promptbake("verify", prompt, *MOCK, "--set", "verify.min_gap_closed=0.99", "--json")
    assert result.code == 1
    printed = json.loads(result.out)
    assert printed["passed"] is False
    assert printed["thresholds"]["kl.gap_closed"]["min"] == 0.99
    assert printed == json.loads((own_copy / "verify.json").read_bytes())


def test_a_changed_setting_keeps_the_old_run_and_begins_a_new_one(
    own_copy: Path, prompt: Path
) -> None:
    before = tree(own_copy)
    result = promptbake("data", prompt, *MOCK, "--set", "seed=1")
    assert result.code == 0
    assert "seed changed" in result.err
    assert tree(own_copy.with_name("pirate~1")) == before
    assert not (own_copy / "adapter").exists()


def test_peft_loads_the_adapter_and_it_changes_the_model(finished: Finished) -> None:
    ids = torch.tensor([[72, 105]])
    model = tiny_model()
    with torch.inference_mode():
        before = model(ids).logits
        baked = peft.PeftModel.from_pretrained(model, finished.folder / "adapter")
        after = baked(ids).logits
        with baked.disable_adapter():
            without = baked(ids).logits
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(without, before)


@pytest.mark.parametrize("arm", ["base", "prompted", "baked", "reprompted"])
def test_chat_answers_one_message(own_copy: Path, prompt: Path, arm: str) -> None:
    arguments = ["--arm", arm, "--max-tokens", "12", "--message", "Who are you?"]
    first, again = (promptbake("chat", prompt, *MOCK, *arguments) for _ in range(2))
    assert first.code == 0
    assert first.out.strip()
    assert first.out == again.out
    assert "chat: loading " in first.err
    from_folder = promptbake("chat", "runs/pirate", *arguments)  # with the settings on record
    if arm in ("base", "baked"):
        assert (from_folder.code, from_folder.out) == (0, first.out)
    else:
        assert "runs/pirate: comes without a prompt, and the arm" in from_folder.complaint


def test_a_runs_folder_stands_for_a_prompt_where_none_is_needed(own_copy: Path) -> None:
    assert promptbake("export", "runs/pirate", "--to", "adapter").code == 0
    assert promptbake("report", "runs/pirate").code == 0
    for stage in STAGES[:3]:
        complaint = promptbake(stage, "runs/pirate").complaint
        assert complaint == f"runs/pirate: is a run's folder; to {stage}, give the prompt's file"


def test_strength_scales_the_adapter_of_chat_and_of_export(own_copy: Path, prompt: Path) -> None:
    arguments = [prompt, *MOCK, "--max-tokens", "12", "--temperature", "0", "--message", "Who?"]
    replies = [
        promptbake("chat", *arguments, *how).out
        for how in (["--arm", "base"], ["--strength", "0"], ["--strength", "1"], [])
    ]
    assert replies[0] == replies[1] != replies[2] == replies[3]
    for strength in ("1", "0.25"):
        to = ["--to", f"at-{strength}", "--strength", strength]
        assert promptbake("export", prompt, *MOCK, *to).code == 0
    whole, quarter = (
        load_file(Path(folder, "adapter_model.safetensors")) for folder in ("at-1", "at-0.25")
    )
    for name, weights in whole.items():
        torch.testing.assert_close(quarter[name], weights / 4 if ".lora_B." in name else weights)
    assert "already exists" in promptbake("export", prompt, *MOCK, "--to", "at-1").complaint


def test_init_writes_the_prompts(tmp_path: Path) -> None:
    assert promptbake("init").code == 0
    names = {path.name for path in Path("prompts").iterdir()}
    assert names >= {"yoda.md", "yoda.toml", "say-my-dear.md", "promptbake.schema.json"}
    for prompt in Path("prompts").glob("*.md"):
        assert promptbake("config", prompt, *MOCK).code == 0
    assert "prompts: already exists; choose another folder" in promptbake("init").complaint


def test_help_is_short_and_the_shell_completes() -> None:
    assert promptbake("-h").out == promptbake("--help").out
    assert "--strength" in promptbake("chat", "-h").out
    words = {"COMP_WORDS": "promptbake ver", "COMP_CWORD": "1"}
    program = [sys.executable, "-c", "from promptbake.cli.main import main; main()"]
    asked = os.environ | words | {"_PROMPTBAKE_COMPLETE": "complete_bash"}
    completed = subprocess.run(program, env=asked, capture_output=True, text=True, check=False)
    assert completed.stdout.split() == ["verify"]


def test_plugins_shows_one_kind_and_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTBAKE_DISABLE_PLUGINS", "files")
    result = promptbake("plugins", "--kind", "data_providers")
    assert result.code == 0
    assert "mock" in result.out
    assert "forward_kl" not in result.out
    assert "did not load: files" in result.out


def test_config_tells_where_each_value_came_from(prompt: Path) -> None:
    prompt.with_suffix(".toml").write_text("train.rank = 4\ntrain.lr = 0.5\n")
    Path("mine.toml").write_text("train.lr = 0.25\ntrain.epochs = 7\n")
    arguments = [*MOCK, "--config", "mine.toml", *settings("train.epochs=8", "train.epochs=9")]
    values = json.loads(promptbake("config", prompt, *arguments, "--json").out)
    assert values["data.provider"] == {"value": "mock", "source": "profile mock"}
    assert values["train.rank"] == {"value": 4, "source": str(prompt.with_suffix(".toml"))}
    assert values["train.lr"] == {"value": 0.25, "source": "mine.toml"}
    assert values["train.epochs"] == {"value": 9, "source": "--set train.epochs=9"}
    assert values["train.tail"] == {"value": "auto", "source": "default"}


def test_what_is_printed_is_no_markup(tmp_path: Path) -> None:
    prompt = tmp_path / "draft [v1] :cat: [bold].md"
    prompt.write_text(PROMPT, "utf-8")
    pattern = 'options.evaluators.checks.patterns.arr = "[a-z]+"'
    prompt.with_suffix(".toml").write_text(pattern)
    config = promptbake("config", prompt, *MOCK)
    assert "[a-z]+" in config.out
    data = promptbake("data", prompt, *MOCK, *settings("data.max_tokens=4", "data.held_out=2"))
    assert data.code == 0
    assert f"runs/{prompt.stem}/data.jsonl: 48 conversations" in data.out


def test_the_installed_command_runs() -> None:
    command = Path(sys.executable).with_name("promptbake")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("promptbake ")
