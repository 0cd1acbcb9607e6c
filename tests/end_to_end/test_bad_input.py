"""Bad input: one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import promptbake
from run_folder import MOCK, PROMPT, refused, settings, write_conversations

FILES = ("data.provider=files", "options.data_providers.files.path=mine.jsonl")
GOOD = [(f"What is {n}?", "Arr.") for n in range(4)]


@pytest.mark.parametrize(
    ("stage", "content", "expected"),
    [
        ("data", b"", "empty"),
        ("bake", b" \n\t\n", "empty"),
        ("verify", b"Speak\0softly", "is not text: it holds a NUL byte at 5"),
        ("chat", b"Speak \xff softly", "is not UTF-8 text (byte 6)"),
        ("config", b"Speak \xff softly", "is not UTF-8 text (byte 6)"),
    ],
)
def test_a_prompt_that_is_no_text(prompt: Path, stage: str, content: bytes, expected: str) -> None:
    prompt.write_bytes(content)
    complaint = refused(stage, prompt)
    assert complaint.startswith(f"{prompt}: ")
    assert expected in complaint


def test_a_prompt_that_is_not_there(prompt: Path) -> None:
    assert refused("data", "absent.md") == "absent.md: cannot be read: No such file or directory"
    assert refused("config", ".") == ".: cannot be read: Is a directory"
    assert refused("data", prompt.parent).endswith("cannot be read: Is a directory")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--set data.provider=moc", "data.provider: unknown data provider 'moc'.* mean mock"),
        ("--set train.backend=cloud", "train.backend: unknown backend 'cloud'; available: "),
        ("--set train.trackers=['x']", "train.trackers: unknown tracker 'x'"),
        ("--set verify.evaluators=['x']", "verify.evaluators: unknown evaluator 'x'"),
        ("--set train.rank=four", "train.rank: .*found 'four'"),
        ("--set train.lr=1e300", "train.lr: .*less than or equal to 10+; found 1e.300"),
        ("--set options.backends.torch.alpha=nan", "options.backends.torch.alpha: "),
        ("--set train.rank", "--set train.rank: expected section.key=value"),
        ("--set options.backends.torch.alhpa=1", "no such option; it takes: device.* mean alpha"),
        ("--set options.backends.torch.alpha=-1", "options.backends.torch.alpha: "),
        ("--set options.losses.jds.beta=0.1", "options.losses.jds: unknown loss 'jds'"),
        ("--set data.held_out=50", "data.held_out = 50: there are 50 different queries"),
        ("--set data.queries=absent.txt", "absent.txt: cannot be read"),
        ("--config absent.toml", "absent.toml: cannot be read"),
        ("--run pirate.md", "pirate.md: is not a folder"),
        ("--run pirate.md/runs/x", "pirate.md/runs: cannot be written: Not a dir"),
    ],
)
def test_a_wrong_argument(prompt: Path, arguments: str, expected: str) -> None:
    assert re.search(expected, refused("data", prompt.name, *arguments.split()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[train]\nrank = \n", "bad.toml: is not TOML: .*line 2"),
        ("train.lr = 1979-05-27\n", "bad.toml: train.lr: is a date or a time"),
        (f"seed = {'9' * 5000}\n", "bad.toml: is not TOML"),
        (f"a = {'[' * 300}{']' * 300}\n", "bad.toml: (is not TOML|a.*nested more than 50 deep)"),
        ("train.rank = 99999999999\n", "bad.toml: train.rank: .*less than 2147483648"),
    ],
)
@pytest.mark.parametrize("place", ["--config", "sidecar"])
def test_a_bad_file_of_settings(prompt: Path, place: str, text: str, expected: str) -> None:
    if place == "sidecar":
        prompt = prompt.rename("bad.md")
    Path("bad.toml").write_text(text)
    arguments = ["--config", "bad.toml"] if place == "--config" else []
    assert re.search(expected, refused("data", prompt, *arguments))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"messages": [', "mine.jsonl:5: is not JSON"),
        ('{"messages": [{"role": "system", "content": "Stop"}]}', ":5: holds a system message"),
        (
            '{"messages": [{"role": "user", "content": "\\ud800"}]}',
            "mine.jsonl:5: is not JSON: unexpected end of hex escape at line 1 column 50 (half",
        ),
    ],
)
def test_a_bad_line_of_conversations(prompt: Path, line: str, expected: str) -> None:
    write_conversations(*GOOD)
    with Path("mine.jsonl").open("a") as file:
        file.write(line + "\n")
    assert expected in refused("data", prompt, *settings(*FILES, "data.held_out=1"))


def test_a_file_without_conversations(prompt: Path) -> None:
    assert "mine.jsonl: cannot be read" in refused("data", prompt, *settings(*FILES))
    Path("mine.jsonl").write_text("\n\n")
    assert "mine.jsonl: holds no conversations" in refused("data", prompt, *settings(*FILES))
    assert "files.path: is missing; expected Path: --set" in refused(
        "data", prompt, *settings("data.provider=files")
    )


def test_a_prompt_longer_than_the_context(prompt: Path) -> None:
    prompt.write_text(PROMPT + " Arr!" * 500, "utf-8")
    assert "the context of mock holds 2048" in refused("data", prompt)
    write_conversations(*GOOD)
    given = settings(*FILES, "data.held_out=1")
    assert promptbake("data", prompt, *MOCK, *given).code == 0
    assert "the context of mock holds 2048" in refused("bake", prompt, *given)


def test_a_query_longer_than_the_context(prompt: Path) -> None:
    Path("long.txt").write_text("Why?\n" + "And why? " * 250 + "\n")
    given = settings("data.queries=long.txt", "data.held_out=1")
    assert "query line-00002: with the prompt" in refused("data", prompt, *given)


@pytest.mark.parametrize("content", [None, "", "{}", '{"model_type": "llama"}'])
def test_a_folder_that_is_no_model(prompt: Path, content: str | None) -> None:
    folder = Path("model")
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    given = settings("train.backend=torch", "data.provider=self", "model.name=model")
    assert refused("data", prompt, *given).startswith("model.name = 'model': ")
