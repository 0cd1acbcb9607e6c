"""Faulty trackers, and the test of TrackerSuite that catches each."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_suites import edited, suite_for, suites_for, template

from promptbake.testing import TrackerSuite

KEY = "TOY_API_KEY"
KNOWN = json, logging, math, os, replace, suppress, sys  # to the edits


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv(KEY, "toy-key-0123456789")
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


def make_tracker(*edits: str) -> Any:
    known = {each.__name__: each for each in KNOWN}
    return edited(template("trackers"), edits, KEY=KEY, **known)["Toy"]


def recorded(self: TrackerSuite, folder: Path) -> list[dict[str, float]]:
    path = folder / "toy.csv"
    rows = csv.DictReader(path.read_text().splitlines()) if path.exists() else ()
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


START, APPEND = 'self._path = folder / "toy.csv"', 'with self._path.open("a", newline="") as file:'
FINISH, ROW, RESUMES = '"""Every row is on disk already."""', "asdict(metrics)", "if step and self"


def row(change: str) -> tuple[str, str]:
    """Each row is changed, item by item, k and v."""
    return f"writerow({ROW})", f"writerow({{{change}}})".replace("ROW", f"{ROW}.items()")


def at_start(statement: str) -> tuple[str, str]:
    return START, f"{START}\n        {statement}"


def at_log(statement: str) -> tuple[str, str]:
    return APPEND, f"{statement}\n        {APPEND}"


LOSS_ALONE = row("k: v for k, v in ROW if k in ('step', 'loss')")
SERVICE = ' if int(row["step"]) <= step', ""  # can't delete what it was sent
ONE_RUN = START, 'Toy._path = folder / "toy.csv"'  # as a module does that keeps it in a global
REPORT = at_log(
    "with self._path.with_name('metrics.jsonl').open('a') as file:\n            print(json.dumps("
    "{k: v for k, v in vars(metrics).items() if v is not None}), file=file)"
)
NOTICE = (START, "return", APPEND, f"return\n        {APPEND}")  # keeps nothing
BUFFER = (  # writes all steps at the end
    APPEND, "self.rows = [*vars(self).get('rows', ()), asdict(metrics)]\n        for file in ():",
    FINISH, 'with self._path.open("a", newline="") as file:\n'
    "            csv.DictWriter(file, COLUMNS).writerows(vars(self).get('rows', []))",
)  # fmt: skip
REPORTS = {"metrics_file": True}
FAULTS = {
    "test_every_step_is_recorded_once_and_in_order": {
        "loses_the_last_step": at_log(
            "self.last, metrics = metrics, vars(self).get('last')\n"
            "        if metrics is None:\n            return"),
        "loses_step_zero": at_log("if metrics.step == 0:\n            return"),
        "counts_the_steps_itself": at_log(
            "self.n = vars(self).get('n', 0) + 1\n        metrics = replace(metrics, step=self.n)"),
    },
    "test_every_value_is_recorded_as_it_was_logged": {
        "records_the_loss_alone": LOSS_ALONE,
        "bits": row("**dict(ROW), 'loss': (metrics.loss or 0.0) / math.log(2)"),
        "renames_the_rate": (
            "rows.writeheader()", "file.write(','.join(COLUMNS).replace('lr', 'rate') + '\\n')"),
        "rounds_the_values": row("k: v if v is None else round(v, 4) for k, v in ROW"),
        "leaves_zero_out": row("k: v for k, v in ROW if v or k in ('step', 'epoch')"),
        "records_more": ({"records": ("step", "loss")},),
    },
    "test_what_was_not_measured_is_not_recorded": {
        "none_is_zero": row("k: v or 0 for k, v in ROW"),
        "none_is_nan": row("k: math.nan if v is None else v for k, v in ROW"),
        "carries_the_last_value_over": at_log(
            "self.last = {k: v if v is not None else vars(self).get('last', {}).get(k)\n"
            "                     for k, v in vars(metrics).items()}\n"
            "        metrics = replace(metrics, **self.last)"),
    },
    "test_a_run_that_resumes_keeps_its_steps": {
        "forgets_all_when_it_resumes": (RESUMES, "if False and self"),
        "drops_the_step_it_resumes_from": ("<= step", "< step"),
    },
    "test_steps_after_the_one_that_it_resumes_from_are_discarded": {
        "repeats_steps": SERVICE,
        "does_truncate": ({"truncates_on_resume": False},),
    },
    "test_a_run_that_starts_again_has_nothing_of_the_earlier_one": {
        "keeps_the_earlier_run": (RESUMES, "if self", "<= step", "<= (step or 99)"),
        "keeps_step_zero_of_the_earlier_run": (RESUMES, "if self"),
    },
    "test_a_run_may_resume_whose_start_it_did_not_see": {
        "needs_its_start": ("if step and self._path.exists():", "if step:"),
    },
    "test_a_run_may_end_before_its_first_step": {
        "fails_without_a_step": (*BUFFER, "vars(self).get('rows', [])", "self.rows"),
    },
    "test_a_step_is_stored_before_the_run_ends": {"buffers_until_the_end": BUFFER},
    "test_an_interrupted_run_keeps_its_steps": {
        "loses_an_interrupted_run": (
            *BUFFER, "vars(self).get('rows', [])", "[] if sys.exc_info()[0] else self.rows"),
    },
    "test_two_runs_do_not_mix": {
        "keeps_the_rows_in_its_class": at_log(
            "Toy.rows = vars(Toy).get('rows', {}) | {metrics.step: asdict(metrics)}\n"
            "        with self._path.open('w', newline='') as file:\n"
            "            rows = csv.DictWriter(file, COLUMNS)\n            rows.writeheader()\n"
            "            rows.writerows(self.rows.values())\n        return"),
        "knows_one_run": ONE_RUN,
    },
    "test_it_leaves_the_files_of_the_run_unchanged": {
        "overwrites_run_json": at_start("(folder / 'run.json').write_text('{}')"),
        "writes_metrics_too": (FINISH, "self._path.with_name('metrics.jsonl').write_text('')"),
    },
    "test_it_writes_in_the_folder_of_the_run_alone": {
        "writes_in_the_working_folder": (FINISH, "Path('toy.log').write_text('')"),
        "writes_beside_the_folder": at_start("folder.with_name('pirate.toy').write_text('')"),
        "does_write_in_the_folder": ({"in_folder": False},),
    },
    "test_a_folder_that_cannot_be_written_is_an_error": {
        "swallows_errors": (
            APPEND, "with suppress(OSError), self._path.open('a', newline='') as file:",
            'with self._path.open("w", newline="") as file:',
            "with suppress(OSError), self._path.open('w', newline='') as file:"),
        "removes_what_is_in_the_way": at_start("folder.is_file() and folder.unlink()"),
    },
    "test_it_leaves_its_input_unchanged": {
        "changes_the_config": at_start("config['options'].pop('losses')"),
        "expects_a_flat_config": at_start(
            "[float(value) for table in config.values() for value in table.values()]"),
    },
    "test_it_prints_nothing": {"prints": at_log("print(metrics.step)")},
    "test_no_key_is_seen": {
        "writes_its_key": at_start(
            "(folder / 'toy.json').write_text(json.dumps(dict(os.environ)))"),
        "logs_its_key": at_start("logging.getLogger('toy').info('as %s', os.environ[KEY])"),
    },
    "test_the_report_can_read_its_metrics": {
        "reports_under_another_name": (
            *REPORT, "{k: v for", "{k.replace('loss', 'train/loss'): v for", REPORTS),
        "reports_nothing": (REPORTS,),
    },
    "test_what_it_recorded_can_be_read_back": {
        "can_be_read_back": ({"reads_back": False},),
        "reads_nothing_back": ({"recorded": TrackerSuite.recorded},),
    },
}  # fmt: skip
GOOD = {
    "": ((), {}),
    "Loss": (LOSS_ALONE, {"records": ("step", "loss")}),
    "Buffer": (BUFFER, {"durable": False}),
    "Service": (SERVICE, {"truncates_on_resume": False}),
    "Single": (ONE_RUN, {"concurrent_runs": False}),
    "Report": (REPORT, REPORTS),
    "Notice": (NOTICE, {
        "reads_back": False, "in_folder": False, "recorded": TrackerSuite.recorded}),
}  # fmt: skip
COMMON: dict[str, Any] = {"recorded": recorded, "keys": (KEY,)}

globals().update(suites_for(TrackerSuite, "make_tracker", make_tracker, FAULTS, **COMMON))
for name, (edits, flags) in GOOD.items():
    make = lambda edits=edits: make_tracker(*edits)  # noqa: E731
    globals()[f"TestGood{name}"] = suite_for(TrackerSuite, "make_tracker", make, **COMMON | flags)
