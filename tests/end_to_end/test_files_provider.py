"""Conversations and queries from a file of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import promptbake
from run_folder import MOCK, ids, read_lines, settings, write_conversations

ARGUMENTS = settings(
    "data.provider=files",
    "options.data_providers.files.path=mine.jsonl",
    "data.held_out=2",
    "data.max_tokens=8",
    "train.epochs=1",
    "verify.min_gap_closed=-100",
    "verify.max_tokens=4",
)
RUN = Path("runs/pirate")


def test_conversations_and_queries_go_through_all_stages(prompt: Path) -> None:
    answered = [(f"What is {number}?", "Arr, a number!") for number in range(4)]
    longer = [("Hi", "Arr", f"And {number}?", "Aye.\u2028Ho!") for number in range(2)]
    write_conversations(*answered, *longer, ("Who are you?",), ("Hi", "Arr", "And who are you?"))
    for stage in ("data", "bake", "verify"):
        result = promptbake(stage, prompt, *MOCK, *ARGUMENTS)
        # Two held-out queries are too few for an interval that excludes 0.
        assert result.code == (1 if stage == "verify" else 0), result.err
    stored = ids(RUN)
    assert len(stored) == len(set(stored)) == 8
    lines = [*read_lines(RUN / "data.jsonl"), *read_lines(RUN / "held_out.jsonl")]
    assert {line["messages"][-1]["role"] for line in lines} == {"assistant"}
    assert sum("\u2028" in line["messages"][-1]["content"] for line in lines) == 2


def test_think_blocks_are_removed_whoever_brings_the_response(prompt: Path) -> None:
    plain = [(f"What is {number}?", " Arr!\n") for number in range(4)]
    thoughts = ("<think>\nA number?\n</think>\n\nAye!", "hm</think>Aye!", "<think>hm")
    write_conversations(*plain, *[(f"Who is {text}?", text) for text in thoughts])
    result = promptbake("data", prompt, *MOCK, *ARGUMENTS)
    assert result.code == 0, result.err
    assert "removed the think blocks from 2 of 7 responses" in result.err
    assert "left out 1 of 7 responses: a think block is not closed" in result.err
    lines = [*read_lines(RUN / "data.jsonl"), *read_lines(RUN / "held_out.jsonl")]
    kept = sorted(line["messages"][-1]["content"] for line in lines)
    assert kept == [" Arr!\n"] * 4 + ["Aye!"] * 2


@pytest.mark.parametrize("changed", [("What is 0?", "Aye!"), ("What is zero?", "Arr!")])
def test_another_content_of_the_same_file_begins_a_new_run(
    prompt: Path, changed: tuple[str, str]
) -> None:
    turns = [(f"What is {number}?", "Arr!") for number in range(4)]
    write_conversations(*turns)
    assert promptbake("data", prompt, *MOCK, *ARGUMENTS).code == 0
    assert "is complete already" in promptbake("data", prompt, *MOCK, *ARGUMENTS).err

    write_conversations(changed, *turns[1:])
    result = promptbake("data", prompt, *MOCK, *ARGUMENTS)
    assert result.code == 0
    assert "files.path" in result.err
    assert "changed since runs/pirate began" in result.err
    everything = (RUN / "data.jsonl").read_text() + (RUN / "held_out.jsonl").read_text()
    assert changed[1] in everything
    assert changed[0] in everything
