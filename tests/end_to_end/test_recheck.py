"""`promptbake recheck`: an honest run has no difference, and each single edit is named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import promptbake
from run_folder import MOCK, PROMPT, settings, tree

from promptbake.distill.checkpoints import CHECKPOINT
from promptbake.files import seal
from promptbake.report.recheck import recheck

CHECKS = settings(
    "verify.evaluators=['checks']",
    "options.evaluators.checks.patterns.vowel='[aeiou]'",
    "options.evaluators.checks.most_words.short=3",
)


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with evaluators and all controls, measured once."""
    folder = tmp_path_factory.mktemp("verified")
    prompt, run = folder / "pirate.md", folder / "run"
    prompt.write_text(PROMPT + "\n", "utf-8")
    where = (prompt, *MOCK, *CHECKS, "--run", run)
    assert promptbake("data", *where).code == 0
    assert promptbake("bake", *where).code == 0
    assert promptbake("verify", *where, "--controls").code == 0
    return run


@pytest.fixture
def run(verified: Path, tmp_path: Path) -> Path:
    """A copy of it, to be edited."""
    return shutil.copytree(verified, tmp_path / "run")


def edit_json(file: Path, path: str, change: Callable[[Any], Any]) -> None:
    """Change one value of a JSON file: keys and indices, parted by `/`."""
    record = part = json.loads(file.read_bytes())
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in parents:
        part = part[key]
    before = part[last]
    part[last] = change(before)
    assert part[last] != before
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


def little_more(value: float) -> float:
    return value + 1e-4


def one_more(value: int) -> int:
    return value + 1


def opposite(value: bool) -> bool:
    return not value


def other(value: str) -> str:
    return f"{value}!"


VERIFY: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("prompt", other),
    ("model", other),
    ("held_out/queries", one_more),
    ("held_out/tokens", one_more),
    ("kl/base", little_more),
    ("kl/baked", little_more),
    ("kl/reprompted", little_more),
    ("kl/gap_closed", little_more),
    ("kl/gap_closed_ci95/0", little_more),
    ("kl/gap_closed_ci90/1", little_more),
    ("kl/ci95/baked/1", little_more),
    ("kl/by_position/0/baked", little_more),
    ("kl/top_1_agreement/baked/share", little_more),
    ("kl/entropy/prompted", little_more),
    ("evaluators/vowel/baked", little_more),
    ("evaluators/vowel/scores/baked/test-science", lambda value: 1 - value),
    ("evaluators/short/baked_minus_prompted/ci95/0", little_more),
    ("evaluators/short/shares/base/count", one_more),
    ("controls/wrong prompt/gap_closed", little_more),
    ("controls/unbaked/refused", opposite),
    ("controls/shuffled queries/conversations", one_more),
    ("thresholds/kl.gap_closed/min", little_more),
    ("verdict/outcome", lambda value: "failed"),
    ("verdict/decided_by/0/limit", little_more),
    ("verdict/decided_by/0/passed", opposite),
    ("passed", opposite),
    ("answers/1/baked", other),
    ("seconds/verify", one_more),
)


@pytest.mark.parametrize(("path", "change"), VERIFY)
def test_an_edited_value_of_verify_json_is_named(
    run: Path, path: str, change: Callable[[Any], Any]
) -> None:
    edit_json(run / "verify.json", path, change)
    found = recheck(run)
    name = re.sub(r"/(\d+)(?=/|$)", r"[\1]", path).replace("/", ".")
    assert [each.what for each in found.differences] == [f"verify.json: {name}"]


def change_line(file: Path, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit one line of a JSONL file; the change may give another line."""
    lines = file.read_text("utf-8").splitlines(keepends=True)
    line = json.loads(lines[number])
    lines[number] = json.dumps(change(line) or line, ensure_ascii=False) + "\n"
    file.write_text("".join(lines), "utf-8")


def kl_line(run: Path, arm: str) -> int:
    """The line of measurements.jsonl that has an arm's held-out KL."""
    kl = json.loads((run / "verify.json").read_bytes())["kl"][arm]
    for number, text in enumerate((run / "measurements.jsonl").read_text().splitlines()):
        known = json.loads(text).get("kl")
        if known and sum(known["nats"]) / sum(known["tokens"]) == kl:
            return number
    raise AssertionError(f"no line has the KL of {arm}")


def measured(run: Path, arm: str, key: str, resealed: bool) -> None:
    """Change the first conversation's value of one arm's held-out KL."""

    def change(line: dict[str, Any]) -> dict[str, Any]:
        first = line["kl"][key][0]
        if isinstance(first, list):
            first[0] += 0.5
        else:
            line["kl"][key][0] += 1
        content = {name: value for name, value in line.items() if name != "check"}
        return seal(content) if resealed else line

    change_line(run / "measurements.jsonl", kl_line(run, arm), change)


def set_loss(line: dict[str, Any]) -> None:
    line["loss"] = 0.001


def set_response(line: dict[str, Any]) -> None:
    line["messages"][-1]["content"] += "!"


def flip_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def replace(file: Path, before: str, after: str) -> None:
    text = file.read_text("utf-8")
    assert before in text
    file.write_text(text.replace(before, after, 1), "utf-8")


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nats of base": (
        lambda run: measured(run, "base", "nats", False),
        r"measurements\.jsonl:\d+$",
    ),
    "nats of the baked model, with another check": (
        lambda run: measured(run, "baked", "nats", True),
        r"measurements\.jsonl: KL of the arm baked: nats\[0\]",
    ),
    "nats at a token, with another check": (
        lambda run: measured(run, "baked", "by_token", True),
        r"verify\.json: kl\.by_position\[0\]\.baked",
    ),
    "agreement, with another check": (
        lambda run: measured(run, "base", "top_1", True),
        r"verify\.json: kl\.top_1_agreement\.base\.share",
    ),
    "a line of the measurements is gone": (
        lambda run: change_line(run / "measurements.jsonl", kl_line(run, "reprompted"), gone),
        r"measurements\.jsonl: KL of the arm reprompted",
    ),
    "a loss": (
        lambda run: change_line(run / "metrics.jsonl", 3, set_loss),
        r"metrics\.jsonl:4: SHA-256",
    ),
    "a step is gone": (
        lambda run: (run / "metrics.jsonl").write_text(""),
        r"metrics\.jsonl: lines",
    ),
    "a held-out response": (
        lambda run: change_line(run / "held_out.jsonl", 2, set_response),
        r"held_out\.jsonl:3: SHA-256",
    ),
    "a training response": (
        lambda run: change_line(run / "data.jsonl", 0, set_response),
        r"data\.jsonl:1: SHA-256",
    ),
    "a byte of the weights": (
        lambda run: flip_byte(run / "adapter" / "adapter_model.safetensors"),
        r"adapter/adapter_model\.safetensors: SHA-256",
    ),
    "the adapter's record": (
        lambda run: edit_json(run / "adapter" / CHECKPOINT, "base_model", other),
        r"adapter/promptbake\.json: SHA-256",
    ),
    "a margin on record": (
        lambda run: edit_json(run / "run.json", "stages/bake/margins/gap_closed", little_more),
        r"run\.json: stages\.bake\.margins\.gap_closed",
    ),
    "a setting on record": (
        lambda run: edit_json(run / "run.json", "config/train/lr", little_more),
        r"run\.json: config\.train\.lr",
    ),
    "the adapter's digest on record": (
        lambda run: edit_json(run / "run.json", f"stages/bake/adapter/{CHECKPOINT}", other),
        r"run\.json: stages\.bake\.adapter\.promptbake\.json",
    ),
    "the page": (
        lambda run: replace(run / "report.html", "</html>", "<!-- --></html>"),
        r"report\.html:\d+",
    ),
    "the card": (
        lambda run: replace(run / "adapter" / "README.md", "Gap closed: 0", "Gap closed: 1"),
        r"adapter/README\.md:\d+",
    ),
    "JUnit": (
        lambda run: replace(run / "verify.junit.xml", 'failures="', 'failures="1'),
        r"verify\.junit\.xml:\d+",
    ),
    "the page is gone": (lambda run: (run / "report.html").unlink(), r"report\.html"),
    "what was measured": (
        lambda run: edit_json(run / "evidence.json", "answers/0/base", other),
        r"evidence\.json: check",
    ),
    "a control's measurement": (
        lambda run: edit_json(
            run / "evidence.json", "controls/0/conversations/0/nats/baked", little_more
        ),
        r"measurements\.jsonl: KL of the control wrong prompt, baked: nats\[0\]",
    ),
}


def gone(line: dict[str, Any]) -> dict[str, Any]:
    return seal({"key": line["key"], "answer": "nothing"})


@pytest.mark.parametrize("edit", FILES)
def test_an_edited_file_is_named(run: Path, edit: str) -> None:
    change, what = FILES[edit]
    change(run)
    found = recheck(run)
    assert not found.passed
    assert [each for each in found.differences if re.match(what, each.what)], found.differences


def test_an_honest_run_has_no_difference_and_nothing_is_written(run: Path) -> None:
    before = tree(run)
    result = promptbake("recheck", run)
    assert result.code == 0, result.out
    assert re.search(r"\d{3} values recomputed from its files: 0 differences", result.out)
    assert tree(run) == before


def test_an_honest_run_stays_so_when_its_commands_are_repeated(
    verified: Path, run: Path, tmp_path: Path
) -> None:
    where = (verified.parent / "pirate.md", *MOCK, *CHECKS, "--run", run)
    for command in ("data", "bake", "report", "verify"):
        assert promptbake(command, *where).code == 0
        assert recheck(run).differences == []


def test_the_command_exits_with_1_and_a_line_for_each_difference(run: Path) -> None:
    edit_json(run / "verify.json", "kl/baked", lambda value: 0.001)
    edit_json(run / "verify.json", "kl/gap_closed", lambda value: 0.999)
    result = promptbake("recheck", run)
    assert result.code == 1
    first, second, count = result.out.splitlines()
    assert re.fullmatch(r"verify\.json: kl\.baked: stored 0\.001, recomputed 0\.\d+", first)
    assert second.startswith("verify.json: kl.gap_closed: stored 0.999, recomputed ")
    assert count.endswith(": 2 differences")
    printed = json.loads(promptbake("recheck", run, "--json").out)
    assert printed["passed"] is False
    assert [each["what"] for each in printed["differences"]] == [
        "verify.json: kl.baked",
        "verify.json: kl.gap_closed",
    ]


def test_what_is_no_verified_run_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is no run" in promptbake("recheck", tmp_path / "none").complaint
    assert "is no run" in promptbake("recheck", tmp_path / "empty").complaint
    (run / "evidence.json").unlink()
    assert "run `promptbake verify` again" in promptbake("recheck", run).complaint


def test_the_models_give_the_same_again_and_nothing_is_written(run: Path) -> None:
    before = tree(run)
    result = promptbake("recheck", run, "--models", "--json")
    printed = json.loads(result.out)
    assert (result.code, printed["differences"]) == (0, [])
    assert printed["measured_again"] > 100
    assert tree(run) == before


def test_a_hidden_prompt_is_in_no_result_and_the_models_need_it(verified: Path, run: Path) -> None:
    hidden = settings("report.show_prompt=false")
    prompt = verified.parent / "pirate.md"
    assert promptbake("verify", prompt, *MOCK, *CHECKS, *hidden, "--run", run).code == 0
    results = (run / "evidence.json", run / "verify.junit.xml", run / "adapter" / "README.md")
    for file in results:
        assert "the good ship Quartz" not in file.read_text("utf-8"), file
    assert recheck(run).differences == []
    complaint = promptbake("recheck", run, "--models").complaint
    assert "does not hold its text, since report.show_prompt is false" in complaint


def test_the_models_tell_a_forgery_that_agrees_with_itself(run: Path) -> None:
    """Every file is made to agree with a better KL; the weights do not."""
    forge(run)
    assert recheck(run).differences == []
    result = promptbake("recheck", run, "--models")
    assert result.code == 1
    assert "verify.json by the models: kl.baked: stored" in result.out


def forge(run: Path) -> None:
    """Halve the baked model's held-out KL in the measurements, and compute all else from it."""
    from promptbake.report import outputs
    from promptbake.report.evidence import Evidence
    from promptbake.report.recheck import measured_kl
    from promptbake.report.summary import summarise
    from promptbake.runs.run_folder import Run

    def halve(line: dict[str, Any]) -> dict[str, Any]:
        line["kl"]["nats"] = [value / 2 for value in line["kl"]["nats"]]
        return seal({name: value for name, value in line.items() if name != "check"})

    folder = Run(run)
    change_line(run / "measurements.jsonl", kl_line(run, "baked"), halve)
    evidence = json.loads(folder.evidence.read_bytes())
    for row in evidence["targets"][0]["held_out"]:
        row["nats"]["baked"] /= 2
    folder.evidence.write_text(json.dumps(evidence))
    Evidence.load(folder.evidence).save(folder.evidence)
    forged = Evidence.load(folder.evidence)
    summarise(forged, measured_kl(forged, folder)).save(folder.verify)
    outputs.write(folder)
