"""The report: its order, its figures, what may be missing, hostile text, and the page itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_reader import Reader
from verify_example import RESULT

from promptbake.report import page as report
from promptbake.runs.run_folder import Run
from promptbake.types import ARMS

MINUS = "\N{MINUS SIGN}"


def result(**changes: Any) -> dict[str, Any]:
    """What verify.json holds, with some of it changed."""
    return RESULT.as_json() | {"evaluators": {}} | changes


RECORD = {
    "schema": 1,
    "config": {
        "seed": 7,
        "model": {"name": "smollm2-135m-instruct"},
        "data": {"provider": "self", "temperatures": [0.7, 1.0], "max_tokens": 48},
        "train": {"tail": "sampled", "lr": 0.002},
        "verify": {"max_tokens": 48, "evaluators": []},
        "options": {"backends": {"torch": {"alpha": 160}}},
    },
    "versions": {"promptbake": "0.1.0", "python": "3.11.7"},
    "stages": {
        "data": {
            "inputs": {"prompt": "106126b4c0517799"},
            "done": True,
            "seconds": 1.0,
            "conversations": 105,
        },
        "bake": {"inputs": {}, "done": True, "seconds": 1.0, "steps": 52},
    },
}
METRICS = [
    {"step": 0, "steps": 52, "epoch": 0, "held_out_kl": 0.48},
    *({"step": step, "steps": 52, "epoch": 1, "loss": 0.5 / step - 0.05} for step in range(1, 52)),
    {"step": 52, "steps": 52, "epoch": 1, "loss": -0.02, "held_out_kl": 0.11},
]

Page = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    folder = Run(tmp_path / "runs" / "yoda")
    folder.path.mkdir(parents=True)
    folder.record_file.write_text(json.dumps(RECORD))
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    return folder


@pytest.fixture
def page(run: Run) -> Page:
    """Write verify.json, with some of it changed, and return the report."""

    def written(**changes: Any) -> str:
        run.verify.write_text(json.dumps(result(**changes)))
        report.write(run)
        return run.report.read_text("utf-8")

    return written


def test_the_page_has_its_parts_in_the_order_in_which_a_reader_asks(page: Page) -> None:
    assert Reader(page()).order(
        "yoda baked into smollm2-135m-instruct",
        "You are Yoda. Short is every answer.",
        "99 tokens saved on every request",
        "≈ Closer, but not equivalent",
        "77.1 % of the gap to the prompted model is closed, on 15 held-out queries",
        "95 % interval 72.1 to 81.1 %; the threshold of 50 % is reached.",
        "Before you rely on this",
        "margins are not those from before training: verify.margins.shift: 0.4; 0.5 when the bake",
        "90 of 105 responses that were trained on were cut at 48 tokens",
        "What decided it",
        "77.1 % 90 % interval 73.0 to 80.5 % margin: at least 80 % ≈ not shown",
        f"control: wrong prompt {MINUS}40.0 % closed",
        "✓ refused",
        "How far from the prompted model",
        "What 0.10 nats per token means",
        "Test questions",
        "Every held-out query, the worst first",
        "Length and ending",
        "Training",
        "promptbake verify prompts/yoda.md --profile local",
        "Measured 2026-11-29 11:35 UTC",
        "How to read this",
    )


def test_a_long_prompt_is_shortened_and_there_as_a_whole(page: Page) -> None:
    text = "Talk like Yoda. " * 60
    shown = Reader(page(system_prompt={"text": text, "tokens": 1}))
    assert shown.order("shortened", "The whole prompt", text.strip(), "1 token saved")


def test_a_prompt_without_its_text_is_said_to_be_hidden(page: Page) -> None:
    text = Reader(page(system_prompt={"tokens": 99.2})).text
    assert "text is not shown: report.show_prompt is false." in text
    assert "99 tokens saved" in text
    assert "not shown." in Reader(page(system_prompt=None)).text  # an older verify.json


def test_a_failed_verdict_says_why(page: Page) -> None:
    kl = result()["kl"] | {"gap_closed": -0.131, "gap_closed_ci95": None, "gap_closed_ci90": None}
    verdict = {"outcome": "failed", "reasons": ["too <little>"], "decided_by": []}
    thresholds = {"kl.gap_closed": {"min": 0.5, "value": -0.131, "passed": False}}
    held_out = {"queries": 1, "tokens": 9}
    html = page(passed=False, kl=kl, held_out=held_out, thresholds=thresholds, verdict=verdict)
    reader = Reader(html)
    assert reader.order("✗ Failed", "not shown to replace the prompt: too <little>", "13.1 %")
    assert f"{MINUS}13.1 % of the gap to the prompted model is closed, on 1 held-out query" in (
        reader.text
    )
    assert "No interval: one query decides it; the threshold of 50 % is not reached." in reader.text
    assert "<title>yoda: failed, " in html


@pytest.mark.parametrize(
    ("kind", "words"), [("full", "whole vocabulary"), ("top_k_bucket", "a lower bound, over")]
)
def test_the_kind_of_kl_is_named(page: Page, kind: str, words: str) -> None:
    text = Reader(page(kl=result()["kl"] | {"kind": kind})).text
    named = [other for other in ("whole vocabulary", "a lower bound, over") if other in text]
    assert named == [words]


def bars(html: str) -> list[str]:
    """The widths of the bars of base, baked and re-prompted."""
    return re.findall(r'<rect class="bar-\w+"[^>]* width="([\d.]+%)"', html)


def test_equal_nats_are_equal_bars_in_every_report(page: Page) -> None:
    kl = result()["kl"]
    assert bars(page()) == ["48.00%", "11.00%", "9.00%"]
    assert bars(page(kl=kl | {"base": 0.13})) == ["13.00%", "11.00%", "9.00%"]
    html = page(kl=kl | {"base": 1.2})
    assert bars(html) == ["60.00%", "5.50%", "4.50%"]
    assert "(here to 2, since 1 cannot hold the bars)" in html


def test_kl_is_said_in_tokens_that_it_takes_to_tell_two_models_apart(page: Page) -> None:
    text = Reader(page()).text
    assert "0.480 nats per token 0.410 to 0.560; told apart after about 6 tokens" in text
    assert "0.110 nats per token 0.090 to 0.140; told apart after about 27 tokens" in text


def test_the_training_curves_are_on_one_scale_in_the_pages_colours(page: Page) -> None:
    html = page()
    assert Reader(html).values("aria-label") == [
        "Training loss in nats per token: 0.4500 at step 1, -0.0200 at step 52. "
        "Held-out KL in nats per token: 0.4800 at step 0, 0.1100 at step 52"
    ]
    charts = "".join(re.findall('<svg class="chart".*?</svg>', html, re.DOTALL))
    assert "var(--accent)" in charts
    assert re.findall(r"(?:fill|stroke): *#\w+", charts) == []
    assert "font" not in charts


def test_one_question_is_open_with_the_prompted_beside_the_baked_answer(page: Page) -> None:
    html = page()
    assert re.findall(r'<details class="question"( open)?>', html) == [" open", ""]
    shown = [html.index(f">{arm} 1<") for arm in ("base", "reprompted")]
    assert html.index("prompted 1") < html.index("baked 1") < min(shown)
    assert html.count("<details>", html.index("baked 1"), min(shown)) == 1  # folded once more


def test_an_answer_that_was_cut_is_marked_and_a_missing_one_is_named(page: Page) -> None:
    assert "baked 1 ✂ cut at 48 tokens" in Reader(page()).text
    answers = [{"id": "a", "question": "Why?", "base": " \n", "prompted": "p", "baked": "b"}]
    text = Reader(page(answers=answers)).text
    assert "Prompted p Baked b Base and re-prompted Base empty answer Re-prompted not asked" in text
    assert "cut at" not in text.partition("Test questions")[2].partition("Why?")[2]
    assert "Length and ending" not in text  # which is not on record of these


def test_what_was_run_and_which_settings_were_changed(page: Page) -> None:
    text = Reader(page(seconds={"data": 84.2, "bake": 412.7, "verify": 9.44})).text
    for words in (
        "Prompt yoda (SHA-256 106126b4c051…)",
        "Trained on 105 conversations",
        "Held out 15 queries, 2,137 response tokens",
        "Steps 52 steps",
        "Time data 1 min 24 s, bake 6 min 53 s, verify 9.4 s",
        "Seed 7",
        "promptbake 0.1.0, python 3.11.7",
        "Setting Here In the profile train.lr 0.002 0.001 All settings",
    ):
        assert words in text
    assert "160" not in text  # an option, which may be anything


@pytest.mark.parametrize("content", [None, "", '{"step": 1, "steps": 1, "epoch": 1}\n'])
def test_missing_metrics_are_mentioned(run: Run, page: Page, content: str | None) -> None:
    run.metrics.unlink()
    if content is not None:
        run.metrics.write_text(content)
    html = page()
    assert "No metrics were recorded." in html
    assert 'class="chart"' not in html


def test_one_curve_alone_and_values_that_cannot_be_drawn(run: Run, page: Page) -> None:
    run.metrics.write_text(
        '{"step": 1, "steps": 2, "epoch": 1, "loss": NaN}\n'
        '{"step": 2, "steps": 2, "epoch": 1, "loss": 0.5}\n'
    )
    text = Reader(page()).text
    assert "the training loss of each step" in text
    assert "Coloured, with dots" not in text
    assert "not finite: 1 of the recorded values" in text


def test_a_run_without_its_record_has_a_page(run: Run, page: Page) -> None:
    run.record_file.unlink()
    text = Reader(page(origin=None)).text
    assert "Which settings were changed is not on record." in text
    assert "Model smollm2-135m-instruct" in text


HOSTILE = (
    "</p></article><script>alert(1)</script>",
    "<img src=http://evil.example/x onerror=alert(1)>",
    "{{ result.model }} {% raw %} <!-- & &lt; \"' ]]>",
    '"><svg onload=alert(1)>',
)


def spoiled(value: Any, text: str) -> Any:
    """The same, with the text in place of each text that is free."""
    if isinstance(value, dict):
        fixed = {"unit", "kind", "date", "outcome", "bound", "margin", "better"}
        return {key: each if key in fixed else spoiled(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [spoiled(each, text) for each in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(run: Run, page: Page, text: str) -> None:
    usual = Reader(page(**evaluated("name")))
    record = RECORD | {"versions": {"python": text}}
    run.record_file.write_text(json.dumps(record))
    reader = Reader(page(**spoiled(result() | evaluated(text), text)))
    assert sorted(reader.tags) == sorted(usual.tags)
    assert {name for name, _ in reader.attributes} == {name for name, _ in usual.attributes}
    assert reader.text.count(" ".join(text.split())) >= 25


def evaluated(name: str) -> dict[str, Any]:
    """Measurements with this in their names, units and notes."""
    share = {"count": 1, "items": 2, "ci95": [0.1, 0.9], "note": name}
    table = {"unit": name, "base": 1.0, "baked": 0.5, "shares": {"baked": share}, "scores": {}}
    gap = {"unit": name, "base": 1.0, "baked": 0.5, "gap": {"closed": 0.5}, "scores": {}}
    kinds = ("", "shift.", "drift.", "retention.", "extraction.")
    measured = {f"{kind}{name}": table for kind in kinds}
    return {"evaluators": measured | {f"{kind}{name} gap": gap for kind in kinds}}


def test_control_characters_become_visible(page: Page) -> None:
    text = "a\x00b\x1b[31mc\x7fd\x9be\rf\u202eg"
    html = page(answers=[{"id": "x", "question": "?", **dict.fromkeys(ARMS, text)}])
    assert "a␀b␛[31mc␡d\ufffde␍f\ufffdg" in html
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", html) is None


def test_the_page_stands_alone_and_is_well_formed(page: Page) -> None:
    html = page(**evaluated("name"))
    reader = Reader(html)
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
    links = [value for name in ("src", "href", "xlink:href") for value in reader.values(name)]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert set(re.findall(r"url\(#(.*?)\)", html)) <= set(ids)
    assert set(reader.values("aria-labelledby")) <= set(ids)
    assert set(reader.tags).isdisjoint({"script", "link", "iframe", "object"})
    assert "http://" not in html
    assert "https://" not in html
    assert {"title", "h1", "main", "caption"} <= set(reader.tags)


def test_the_same_inputs_give_the_same_bytes_whatever_a_users_matplotlib_settings_are(
    page: Page,
) -> None:
    import matplotlib as mpl

    before = page()
    assert page() == before
    with mpl.rc_context({"font.size": 30, "grid.linestyle": ":", "svg.fonttype": "path"}):
        assert page() == before
        assert mpl.rcParams["font.size"] == 30
