"""The report: its figures, what may be missing, hostile text, and the page itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from verify_example import RESULT

from promptbake.report import page as report
from promptbake.runs.run_folder import Run

MINUS = "\N{MINUS SIGN}"
VOID = {"meta", "link", "br", "hr", "img", "input"}
ARMS = ("base", "prompted", "baked", "reprompted")


def result(**changes: Any) -> dict[str, Any]:
    """What verify.json holds, with some of it changed."""
    return RESULT.as_json() | {"evaluators": {}} | changes


RECORD = {
    "schema": 1,
    "config": {
        "seed": 7,
        "model": {"name": "smollm2-135m-instruct"},
        "data": {"provider": "self", "temperatures": [0.7, 1.0]},
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


class Reader(HTMLParser):
    """Checks that elements close in order, and keeps tags, attributes, ids and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.pieces).replace("\u00a0", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)

    def values(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def test_the_headline_has_its_figures_its_interval_and_its_threshold(page: Page) -> None:
    text = Reader(page()).text
    assert "yoda baked into smollm2-135m-instruct" in text
    assert "✓ Passed · the threshold is 50 %" in text
    assert "77.1 % of the gap closed on 15 held-out queries" in text
    assert "95 % interval 72.1 % to 81.1 %" in text
    assert "Measurements" not in text  # there are no evaluators


def test_a_result_below_the_threshold_says_so(page: Page) -> None:
    kl = result()["kl"] | {"gap_closed": -0.131, "gap_closed_ci95": [-0.2, 0.05]}
    text = Reader(page(passed=False, kl=kl, held_out={"queries": 1, "tokens": 9})).text
    assert "✗ Fell short · the threshold is 50 %" in text
    assert f"{MINUS}13.1 % of the gap closed on 1 held-out query 95" in text
    assert "Passed" not in text


@pytest.mark.parametrize(
    ("kind", "words"), [("full", "whole vocabulary"), ("top_k_bucket", "a lower bound")]
)
def test_the_kind_of_kl_is_named(page: Page, kind: str, words: str) -> None:
    text = Reader(page(kl=result()["kl"] | {"kind": kind})).text
    assert [other for other in ("whole vocabulary", "a lower bound") if other in text] == [words]


def test_the_charts_are_described_in_words_and_take_the_pages_colours(page: Page) -> None:
    html = page()
    assert Reader(html).values("aria-label") == [
        "KL from the prompted model in nats per token: Base 0.4800, Baked 0.1100, "
        "Re-prompted 0.0900",
        "Training loss in nats per token: 0.4500 at step 1, -0.0200 at step 52",
        "Held-out KL in nats per token: 0.4800 at step 0, 0.1100 at step 52",
    ]
    charts = "".join(re.findall("<svg.*?</svg>", html, re.DOTALL))
    assert "var(--accent)" in charts
    assert re.findall(r"(?:fill|stroke): *#\w+", charts) == []
    assert "font" not in charts


def test_every_arm_answers_every_question(page: Page) -> None:
    html = page()
    order = [html.index(f">{arm} 1<") for arm in ARMS]
    assert order == sorted(order)
    assert html.rindex("<details>", 0, order[3]) > order[2]


def test_an_empty_answer_and_one_that_is_missing_are_named(page: Page) -> None:
    answers = [{"id": "a", "question": "Why?", "base": " \n", "prompted": "p", "baked": "b"}]
    text = Reader(page(answers=answers)).text
    assert "Base empty answer Prompted p Baked b Re-prompted not asked" in text


def test_evaluators_with_missing_arms(page: Page) -> None:
    evaluators = {
        "speaks": {"unit": "share of answers", "base": 0.0, "prompted": 0.9, "baked": 0.85},
        "length": {"unit": "tokens", "baked": 1234.5, "reprompted": 41, "better": "lower"},
        "drift": {"unit": "nats", "baked": -0.00012},
    }
    evaluators = {name: each | {"scores": {}} for name, each in evaluators.items()}
    text = Reader(page(evaluators=evaluators)).text
    nothing = "\N{EN DASH} not measured"
    assert f"speaks share of answers 0.000 0.900 0.850 {nothing}" in text
    assert f"length tokens, lower is better {nothing} {nothing} 1,234 41.0" in text
    assert f"drift nats {nothing} {nothing} {MINUS}1.2e{MINUS}04 {nothing}" in text


def test_what_was_run(page: Page) -> None:
    text = Reader(page(seconds={"data": 84.2, "bake": 412.7, "verify": 9.44})).text
    for words in (
        "Prompt yoda (SHA-256 106126b4c051…)",
        "Trained on 105 conversations",
        "Held out 15 queries, 2,137 response tokens",
        "Steps 52 steps",
        "Time, bake 6 min 53 s Time, verify 9.4 s Time, in all 8 min 26 s",
        "Seed 7",
        "Versions promptbake 0.1.0, python 3.11.7",
        "data.temperatures 0.7, 1.0",
        "verify.evaluators none",
        "The plugins\N{RIGHT SINGLE QUOTATION MARK} own options are in run.json.",
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
    assert html.count("<svg") == 1


def test_one_curve_alone_and_values_that_cannot_be_drawn(run: Run, page: Page) -> None:
    run.metrics.write_text(
        '{"step": 1, "steps": 2, "epoch": 1, "loss": NaN}\n'
        '{"step": 2, "steps": 2, "epoch": 1, "loss": 0.5}\n'
    )
    text = Reader(page()).text
    assert "Training loss" in text
    assert "Held-out KL" not in text
    assert "not finite: 1 of the recorded values" in text


def test_a_missing_run_json_is_mentioned(run: Run, page: Page) -> None:
    run.record_file.unlink()
    assert "run.json is missing" in page()


HOSTILE = (
    "</p></article><script>alert(1)</script>",
    "<img src=http://evil.example/x onerror=alert(1)>",
    "{{ result.model }} {% raw %} <!-- & &lt; \"' ]]>",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(page: Page, text: str) -> None:
    arms = dict.fromkeys(ARMS, text)
    reader = Reader(
        page(
            prompt=text,
            model=text,
            adapter=text,
            answers=[{"id": "x", "question": text, **arms}],
            evaluators={text: {"unit": text, "base": 1.0, "scores": {}}},
        )
    )
    assert reader.tags.isdisjoint({"script", "img"})
    assert reader.text.count(" ".join(text.split())) >= 10


def test_control_characters_become_visible(page: Page) -> None:
    text = "a\x00b\x1b[31mc\x7fd\x9be\rf"
    html = page(answers=[{"id": "x", "question": "?", **dict.fromkeys(ARMS, text)}])
    assert "a␀b␛[31mc␡d\ufffde␍f" in html
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html) is None


def test_the_page_stands_alone_and_is_well_formed(page: Page) -> None:
    html = page()
    reader = Reader(html)
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
    links = [value for name in ("src", "href", "xlink:href") for value in reader.values(name)]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert set(re.findall(r"url\(#(.*?)\)", html)) <= set(ids)
    assert reader.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert "http://" not in html
    assert "https://" not in html
    assert {"title", "h1", "main", "caption"} <= reader.tags


def test_the_same_inputs_give_the_same_bytes_whatever_a_users_matplotlib_settings_are(
    page: Page,
) -> None:
    import matplotlib as mpl

    before = page()
    assert page() == before
    with mpl.rc_context({"font.size": 30, "grid.linestyle": ":", "svg.fonttype": "path"}):
        assert page() == before
        assert mpl.rcParams["font.size"] == 30
