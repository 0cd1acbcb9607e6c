"""Runs side by side: what is compared, what is paired, and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from verify_example import RESULT

from promptbake.dataset.conversations import to_line
from promptbake.errors import BakeError
from promptbake.report import comparison_page
from promptbake.report.comparison import Comparison, compare, table
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.run_folder import Run
from promptbake.types import Conversation, Message

CONFIG = {"seed": 0, "train": {"lr": 0.1, "rank": 4}, "options": {"backends": {"torch": {"a": 1}}}}


def write(
    folder: Path,
    result: VerifyResult = RESULT,
    config: Mapping[str, Any] = CONFIG,
    response: str = "Arr!",
) -> Path:
    """A run with a record, one held-out conversation and a result."""
    run = Run(folder)
    run.begin("data", {}, config)
    messages = (Message("user", "Who?"), Message("assistant", response))
    conversation = Conversation("a@held-out", "a", messages, meta={})
    run.held_out.write_text(json.dumps(to_line(conversation)) + "\n")
    result.save(run.verify)
    return folder


def with_scores(scores: Mapping[str, float], **changes: Any) -> VerifyResult:
    """The example, with these scores of the baked model's answers."""
    length = RESULT.evaluators["length"].model_copy(
        update={"scores": {"baked": dict(scores)}, "baked": sum(scores.values()) / len(scores)}
    )
    return RESULT.model_copy(update={"evaluators": {"length": length}} | changes)


def cells(comparison: Comparison, name: str) -> list[str]:
    """The values of the one row of that name."""
    (row,) = (row for row in table(comparison) if row.name == name)
    return list(row.cells)


def test_the_numbers_of_each_run_stand_beside_each_other(tmp_path: Path) -> None:
    kl = RESULT.kl.model_copy(update={"baked": 0.24, "gap_closed": 0.5})
    worse = RESULT.model_copy(
        update={"kl": kl, "evaluators": {}, "prompt": "pirate", "passed": False}
    )
    compared = compare(write(tmp_path / "a"), write(tmp_path / "b", worse))
    assert cells(compared, "prompt") == ["yoda", "pirate"]
    assert cells(compared, "base") == ["0.4800", "0.4800"]
    assert cells(compared, "re-prompted") == ["0.0900", "0.0900"]
    assert [row.cells for row in table(compared) if row.name == "baked"] == [["0.1100", "0.2400"]]
    assert cells(compared, "held-out queries") == [
        "0.771 (0.721 to 0.811)",
        "0.500 (0.721 to 0.811)",
    ]
    assert cells(compared, "target keep") == ["-", "-"]
    assert cells(compared, "length (words, lower is better)") == ["1.5", "-"]
    assert cells(compared, "one (words)") == ["-", "-"]
    assert cells(compared, "kl.gap_closed") == ["0.5: passed", "0.5: passed"]
    assert cells(compared, "passed") == ["yes", "NO"]
    assert [row.cells for row in table(compared) if row.group == "seconds"] == [
        ["-", "-"],
        ["412.7", "412.7"],
        ["9.4", "9.4"],
    ]


def test_the_settings_that_differ_are_listed_and_a_missing_one_is_as_if_not_set(
    tmp_path: Path,
) -> None:
    other = CONFIG | {"train": {"lr": 0.2, "rank": 4, "tail": None, "loss": "jsd"}}
    compared = compare(write(tmp_path / "a"), write(tmp_path / "b", config=other))
    assert compared.differing_settings == {"train.lr": [0.1, 0.2], "train.loss": [None, "jsd"]}
    assert cells(compared, "train.loss") == ["-", '"jsd"']


def test_baked_scores_of_the_same_items_are_paired(tmp_path: Path) -> None:
    before = write(tmp_path / "a", with_scores({"x": 1.0, "y": 2.0, "z": 6.0}))
    after = write(tmp_path / "b", with_scores({"x": 2.0, "y": 3.0, "z": 7.5}))
    compared = compare(before, after, before)
    up, none = compared.differences("length")
    assert up is not None
    assert up.mean == pytest.approx(3.5 / 3)
    assert up.ci95 is not None
    assert up.ci95[0] < up.mean < up.ci95[1]
    assert none is not None
    assert none.mean == 0
    row = cells(compared, "length, minus the first run's")
    assert row[0] == "-"
    assert row[1].startswith("+1.167 (")
    assert compared.as_json()["minus_first"]["length"][0]["items"] == 3


def test_other_items_or_other_words_of_a_question_are_not_paired(tmp_path: Path) -> None:
    before = write(tmp_path / "a", with_scores({"test-0": 1.0, "y": 2.0}))
    fewer = write(tmp_path / "b", with_scores({"test-0": 1.0}))
    answers = [RESULT.answers[0].model_copy(update={"question": "Something else?"})]
    reworded = write(tmp_path / "c", with_scores({"test-0": 1.0, "y": 2.0}, answers=answers))
    compared = compare(before, fewer, reworded)
    assert compared.differences("length") == [None, None]
    assert compared.as_json()["minus_first"] == {}
    assert not any("minus the first" in row.name for row in table(compared))


def test_it_is_said_whether_the_held_out_responses_are_the_same(tmp_path: Path) -> None:
    first, same = write(tmp_path / "a"), write(tmp_path / "b")
    other = write(tmp_path / "c", response="Aye!")
    compared = compare(first, same)
    assert compared.same_held_out
    assert "no KL by query" in compared.notes[0]
    compared = compare(first, same, other)
    assert not compared.same_held_out
    assert "not the same in all" in compared.notes[0]
    for folder in (first, same):
        Run(folder).held_out.unlink()
    assert not compare(first, same).same_held_out


def test_json_has_verify_json_of_each_without_texts_and_scores(tmp_path: Path) -> None:
    printed = json.loads(
        json.dumps(compare(write(tmp_path / "a"), write(tmp_path / "b")).as_json())
    )
    first = printed["runs"][0]
    assert first["run"] == str(tmp_path / "a")
    assert (first["kl"]["baked"], first["evaluators"]["length"]["baked"]) == (0.11, 1.5)
    assert "answers" not in first
    assert "scores" not in json.dumps(printed)
    assert (printed["same_held_out"], printed["differing_settings"]) == (True, {})


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "good")
    (tmp_path / "none").mkdir()
    unverified = write(tmp_path / "unverified")
    Run(unverified).verify.unlink()
    for given, line in (
        ([good], "compare: 1 run is given; give the folders of two or more"),
        ([good, tmp_path / "none"], "none: is no run, since it has no run.json"),
        ([good, tmp_path / "absent"], "absent: is no run, since it has no run.json"),
        ([good, unverified], "verify.json: does not exist; run `promptbake verify`"),
    ):
        with pytest.raises(BakeError, match=line):
            compare(*given)


def page(tmp_path: Path, *folders: Path) -> str:
    file = tmp_path / "pages" / "compare.html"
    comparison_page.write(compare(*folders), file)
    return file.read_text("utf-8")


def test_the_page_has_every_number_and_stands_alone(tmp_path: Path) -> None:
    other = write(tmp_path / "b", config=CONFIG | {"seed": 5})
    html = page(tmp_path, write(tmp_path / "a"), other)
    for text in ("2 runs compared", "#2", "0.771 (0.721 to 0.811)", "9.4", "settings that differ"):
        assert text in html
    assert 'aria-label="Gap closed in per cent: #1 77.1 (72.1 to 81.1), #2 77.1' in html
    assert html.count("<svg") == 1
    for outside in ("<script", "<link", "src=", "http://", "https://", "@import"):
        assert outside not in html
    assert page(tmp_path, tmp_path / "a", other) == html


def test_the_page_keeps_plugins_options_to_itself(tmp_path: Path) -> None:
    secret = {"options": {"backends": {"torch": {"a": "inner.example"}}}}
    other = write(tmp_path / "b", config=CONFIG | secret)
    html = page(tmp_path, write(tmp_path / "a"), other)
    assert "inner.example" not in html
    assert "1 option of a plugin differs, too" in html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("{{ 7 * 7 }}", "{{ 7 * 7 }}"),
        ("a\x1b[31mb", "a\u241b[31mb"),
    ],
)
def test_hostile_text_is_shown_as_text(tmp_path: Path, text: str, shown: str) -> None:
    hostile = RESULT.model_copy(
        update={
            "prompt": text,
            "model": text,
            "evaluators": {text: RESULT.evaluators["one"].model_copy(update={"unit": text})},
        }
    )
    config = CONFIG | {"model": {"name": text}}
    html = page(tmp_path, write(tmp_path / "a", hostile, config), write(tmp_path / "b"))
    assert "<script" not in html
    assert "\x1b" not in html
    assert html.count(shown) >= 5  # prompt and model, each above and in the table; the measurement


def test_a_folder_is_no_file_for_the_page(tmp_path: Path) -> None:
    compared = compare(write(tmp_path / "a"), write(tmp_path / "b"))
    with pytest.raises(BakeError, match="is a folder; give a file, such as"):
        comparison_page.write(compared, tmp_path)
