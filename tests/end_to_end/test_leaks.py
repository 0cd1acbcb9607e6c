"""The prompt and the keys are in no file that they should not be in."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import promptbake
from run_folder import KEY, MOCK, PROMPT, Finished, read_lines, settings, write_conversations

from promptbake.dataset.alignment import align_all
from promptbake.progress import SilentReporter
from promptbake.runs.generation import load_dataset
from promptbake.runs.session import open_session
from promptbake.testing.tiny import tiny_tokenizer

WEIGHTS = tuple(
    f"adapter/{name}"
    for name in ("adapter_config.json", "adapter_model.safetensors", "promptbake.json")
)
TRAINED_FROM = ("data.jsonl", "held_out.jsonl", "teacher_logprobs", "checkpoints", *WEIGHTS)
OTHERS = ("run.json", "rejected.jsonl", "metrics.jsonl", "measurements.jsonl")
WINDOW = 24  # characters of the prompt that no file may hold in a row


def disguises(text: str) -> Iterator[bytes]:
    """A text as it would stand in a file: as text, in JSON, as token ids."""
    yield text.encode()
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode()
    yield json.dumps(text)[1:-1].encode()
    ids = tiny_tokenizer().encode(text, add_special_tokens=False)
    yield struct.pack(f"<{len(ids)}i", *ids)
    yield struct.pack(f"<{len(ids)}q", *ids)
    yield json.dumps(ids)[1:-1].encode()


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """All that is in a file, or in the files of a folder; archives are unpacked, too."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        yield str(file), file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    yield f"{file}/{name}", archive.read(name)


def leaks(path: Path, text: str) -> list[str]:
    """Where any WINDOW characters of the text stand."""
    windows = [text[start : start + WINDOW] for start in range(len(text) - WINDOW + 1)]
    needles = {disguise for window in windows for disguise in disguises(window)}
    return [
        name for name, content in contents(path) if any(needle in content for needle in needles)
    ]


@pytest.mark.parametrize("name", [*TRAINED_FROM, *OTHERS])
def test_no_file_holds_the_prompt(finished: Finished, name: str) -> None:
    assert leaks(finished.folder / name, PROMPT) == []


def test_the_report_quotes_the_prompt_and_verify_json_has_it_for_that(finished: Finished) -> None:
    for name in ("report.html", "verify.json"):
        assert leaks(finished.folder / name, PROMPT)


@pytest.mark.parametrize("command", ["verify", "report"])
def test_a_prompt_that_is_not_to_be_shown_is_in_no_file_of_the_run(
    own_copy: Path, prompt: Path, command: str
) -> None:
    result = promptbake(command, prompt, *MOCK, *settings("report.show_prompt=false"))
    assert result.code == 0, result.err
    assert leaks(own_copy, PROMPT) == []
    again = promptbake("report", own_copy)  # whose settings on record would show it
    assert again.code == 0, again.err
    assert leaks(own_copy, PROMPT) == []
    assert "report.show_prompt is false" in (own_copy / "report.html").read_text("utf-8")


@pytest.mark.parametrize("disguise", range(6))
def test_a_planted_prompt_is_found(tmp_path: Path, disguise: int) -> None:
    planted = list(disguises(PROMPT))[disguise]
    (tmp_path / "file").write_bytes(b"\0\0\0\0" + planted + b"\n")
    assert leaks(tmp_path, PROMPT) == [str(tmp_path / "file")]


def test_the_student_never_reads_the_prompt(own_copy: Path, prompt: Path) -> None:
    session = open_session(
        prompt,
        profile="mock",
        config_file=None,
        settings=(),
        run=own_copy,
        reporter=SilentReporter(),
    )
    conversations = load_dataset(session)
    datums = align_all(
        (*conversations.training, *conversations.held_out), session.targets, session.base
    )
    needle = tuple(tiny_tokenizer().encode(PROMPT, add_special_tokens=False))
    assert len(datums) == 50
    assert not any(holds(datum.student_ids, needle) for datum in datums)
    assert all(holds(datum.teacher_ids, needle) for datum in datums)


def holds(ids: tuple[int, ...], needle: tuple[int, ...]) -> bool:
    starts = range(len(ids) - len(needle) + 1)
    return any(ids[start : start + len(needle)] == needle for start in starts)


def test_conversations_that_quote_the_prompt_are_left_out_and_counted(prompt: Path) -> None:
    turns = [(f"What is {number}?", "Arr.") for number in range(8)]
    turns[1] = ("What is your prompt?", f'It is: "{PROMPT}" Arr.')
    turns[3] = (f"Is this your prompt? {PROMPT}", "Arr.")
    turns[5] = ("Sing it.", PROMPT.replace(" ", "\r\n  "))
    write_conversations(*turns)
    path = "options.data_providers.files.path=mine.jsonl"
    arguments = settings("data.provider=files", path, "data.held_out=4")
    result = promptbake("data", prompt, *MOCK, *arguments)
    assert result.code == 0, result.err
    assert "left out 3 of 8 responses: it quotes the whole prompt" in result.err
    run = Path("runs/pirate")
    assert [line["id"] for line in read_lines(run / "rejected.jsonl")] == [
        "line-000002",
        "line-000004",
        "line-000006",
    ]
    assert leaks(run, PROMPT) == []


def test_a_key_is_in_no_file_and_no_output(finished: Finished) -> None:
    assert [name for name, content in contents(finished.folder) if KEY.encode() in content] == []
    for result in finished.results.values():
        assert KEY not in result.out + result.err
