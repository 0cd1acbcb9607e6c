"""Faulty trackers, and the test of TrackerSuite that catches each."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from faulty_suites import fault, suite_for, suites_for

from promptbake.interfaces import Tracker
from promptbake.testing import TrackerSuite
from promptbake.types import StepMetrics

KEY = "TOY_API_KEY"
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv(KEY, "toy-key-0123456789")
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


class Good:
    """Writes two files: the steps, line by line, and the config."""

    file = "toy.jsonl"

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        self.folder, self.path = folder, folder / self.file
        self.logged: list[StepMetrics] = []
        (folder / "toy.json").write_text(json.dumps(config))
        self.write(self.kept(read(self.path), step))

    def kept(self, rows: list[Row], step: int) -> list[Row]:
        return [row for row in rows if step and row["step"] <= step]

    def log(self, metrics: StepMetrics) -> None:
        self.append([self.row(metrics)])

    def row(self, metrics: StepMetrics) -> Row:
        return {name: value for name, value in vars(metrics).items() if value is not None}

    def write(self, rows: Iterable[Row]) -> None:
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def append(self, rows: Iterable[Row]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def finish(self) -> None:
        pass


class LossAlone(Good):
    def row(self, metrics: StepMetrics) -> Row:
        return {k: v for k, v in super().row(metrics).items() if k in ("step", "loss")}


class Buffer(Good):
    """Writes all steps at the end."""

    def log(self, metrics: StepMetrics) -> None:
        self.logged.append(metrics)

    def finish(self) -> None:
        self.append(map(self.row, self.logged))


class Service(Good):
    """Can't delete what it was sent."""

    def kept(self, rows: list[Row], step: int) -> list[Row]:
        return rows if step else []


class OneRun(Good):
    """As a module does that keeps the run in a global."""

    current: ClassVar[list[Path]] = []

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        self.current[:] = [folder / self.file]
        super().start(folder, config, step)

    def log(self, metrics: StepMetrics) -> None:
        self.path = self.current[0]
        super().log(metrics)


class Report(Good):
    """Writes the metrics that the report reads."""

    file = "metrics.jsonl"


class Notice(Good):
    """Tells a person, and keeps nothing."""

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        pass

    def log(self, metrics: StepMetrics) -> None:
        pass


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def row(change: Callable[[Row], Row]) -> Any:
    """Each row changed."""
    return lambda self, metrics: change(Good.row(self, metrics))


def then(change: Callable[[Good], object]) -> Any:
    """A start, and something after it."""

    def start(self: Good, folder: Path, config: Mapping[str, object], step: int) -> None:
        Good.start(self, folder, config, step)
        change(self)

    return start


def configured(change: Callable[[Any], Any]) -> Any:
    """A start with another config."""
    return lambda self, folder, config, step: Good.start(self, folder, change(config), step)


def late(self: Good, metrics: StepMetrics) -> None:
    for held in self.logged:
        Good.log(self, held)
    self.logged = [metrics]


def counted(self: Good, metrics: StepMetrics) -> None:
    self.logged.append(metrics)
    Good.log(self, replace(metrics, step=len(self.logged)))


def suppressed(method: Any) -> Any:
    def call(*arguments: Any) -> None:
        with suppress(OSError):
            method(*arguments)

    return call


def carry_over(self: Good, metrics: StepMetrics) -> Row:
    self.logged.append(metrics)
    return {k: v for each in self.logged for k, v in vars(each).items() if v is not None}


def require_start(self: Good, rows: list[Row], step: int) -> list[Row]:
    if step and not rows:
        raise FileNotFoundError(self.path)
    return Good.kept(self, rows, step)


def make_way(self: Good, folder: Path, config: Mapping[str, object], step: int) -> None:
    if folder.is_file():
        folder.unlink()
    Good.start(self, folder, config, step)


def log_in_class(self: Any, metrics: StepMetrics) -> None:
    self.rows[metrics.step] = self.row(metrics)
    self.write(self.rows.values())


def printing(self: Good, metrics: StepMetrics) -> None:
    print(f"step {metrics.step}")  # noqa: T201
    Good.log(self, metrics)


def flat(config: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for table in config.values() for name, value in table.items()}


STEPS = "test_every_step_is_recorded_once_and_in_order"
VALUES = "test_every_value_is_recorded_as_it_was_logged"
NONE = "test_what_was_not_measured_is_not_recorded"
RESUMES = "test_a_run_that_resumes_keeps_its_steps"
DISCARDS = "test_steps_after_the_one_that_it_resumes_from_are_discarded"
AGAIN = "test_a_run_that_starts_again_has_nothing_of_the_earlier_one"
MIX = "test_two_runs_do_not_mix"
FILES = "test_it_leaves_the_files_of_the_run_unchanged"
FOLDER = "test_it_writes_in_the_folder_of_the_run_alone"
ERRORS = "test_a_folder_that_cannot_be_written_is_an_error"
CONFIG = "test_it_leaves_its_input_unchanged"
KEYS = "test_no_key_is_seen"
READ = "test_what_it_recorded_can_be_read_back"
REPORT = {"flags": {"metrics_file": True}, "caught_by": "test_the_report_can_read_its_metrics"}
FAULTS = [
    fault("loses_the_last_step", STEPS, log=late),
    fault("loses_step_zero", STEPS, log=lambda s, m: m.step and Good.log(s, m)),
    fault("counts_the_steps_itself", STEPS, log=counted),
    fault("records_the_loss_alone", VALUES, base=LossAlone),
    fault("bits", VALUES, row=row(lambda r: r | {"loss": r.get("loss", 0.0) / math.log(2)})),
    fault("renames_the_rate", VALUES,
          row=row(lambda r: {"rate" if k == "lr" else k: v for k, v in r.items()})),
    fault("rounds_the_values", VALUES,
          row=row(lambda r: {name: round(value, 4) for name, value in r.items()})),
    fault("leaves_zero_out", VALUES,
          row=row(lambda r: {k: v for k, v in r.items() if v or k in ("step", "epoch")})),
    fault("none_is_zero", NONE, row=lambda s, m: {k: v or 0 for k, v in vars(m).items()}),
    fault("none_is_nan", NONE,
          row=lambda s, m: dict.fromkeys(vars(m), math.nan) | Good.row(s, m)),
    fault("carries_the_last_value_over", NONE, row=carry_over),
    fault("forgets_all_when_it_resumes", RESUMES, kept=lambda s, rows, step: []),
    fault("drops_the_step_it_resumes_from", RESUMES,
          kept=lambda s, rows, step: [r for r in rows if r["step"] < step]),
    fault("repeats_steps", DISCARDS, base=Service),
    fault("keeps_the_earlier_run", AGAIN,
          kept=lambda s, rows, step: Good.kept(s, rows, step) if step else rows),
    fault("keeps_step_zero_of_the_earlier_run", AGAIN,
          kept=lambda s, rows, step: [r for r in rows if r["step"] <= step]),
    fault("needs_its_start", "test_a_run_may_resume_whose_start_it_did_not_see",
          kept=require_start),
    fault("fails_without_a_step", "test_a_run_may_end_before_its_first_step", base=Buffer,
          finish=lambda s: s.append([s.row(min(s.logged, key=lambda m: m.loss or 0))])),
    fault("buffers_until_the_end", "test_a_step_is_stored_before_the_run_ends", base=Buffer),
    fault("loses_an_interrupted_run", "test_an_interrupted_run_keeps_its_steps", base=Buffer,
          finish=lambda s: Buffer.finish(s) if sys.exc_info()[0] is None else None),
    fault("keeps_the_rows_in_its_class", MIX, rows={}, log=log_in_class),
    fault("knows_one_run", MIX, base=OneRun),
    fault("overwrites_run_json", FILES,
          start=then(lambda s: (s.folder / "run.json").write_text("{}"))),
    fault("writes_metrics_too", FILES,
          finish=lambda s: (s.folder / "metrics.jsonl").write_text(s.path.read_text())),
    fault("writes_in_the_working_folder", FOLDER, finish=lambda s: Path("toy.log").write_text("")),
    fault("writes_beside_the_folder", FOLDER,
          start=then(lambda s: s.folder.with_name(f"{s.folder.name}.toy").write_text(""))),
    fault("swallows_errors", ERRORS,
          start=suppressed(Good.start), log=suppressed(Good.log)),
    fault("removes_what_is_in_the_way", ERRORS, start=make_way),
    fault("changes_the_config", CONFIG,
          start=configured(lambda config: config["options"].pop("losses"))),
    fault("expects_a_flat_config", CONFIG, start=configured(flat)),
    fault("prints", "test_it_prints_nothing", log=printing),
    fault("writes_its_key", KEYS,
          start=configured(lambda config: {"config": config, "environment": dict(os.environ)})),
    fault("logs_its_key", KEYS,
          start=then(lambda s: logging.getLogger("toy").info("signed in: %s", os.environ[KEY]))),
    fault("reports_under_another_name", **REPORT, base=Report,
          row=row(lambda r: {"train/loss" if k == "loss" else k: v for k, v in r.items()})),
    fault("reports_nothing", **REPORT),
    fault("records_more", VALUES, flags={"records": ("step", "loss")}),
    fault("does_truncate", DISCARDS, flags={"truncates_on_resume": False}),
    fault("can_be_read_back", READ, flags={"reads_back": False}),
    fault("reads_nothing_back", READ, flags={"recorded": TrackerSuite.recorded}),
    fault("does_write_in_the_folder", FOLDER, flags={"in_folder": False}),
]  # fmt: skip


def recorded(self: TrackerSuite, folder: Path) -> list[Row]:
    return read(folder / (Report if self.metrics_file else Good).file)


def good(tracker: type[Tracker], **flags: Any) -> type[TrackerSuite]:
    return suite_for(TrackerSuite, "make_tracker", lambda: tracker, **COMMON | flags)


COMMON: dict[str, Any] = {"recorded": recorded, "keys": (KEY,)}
globals().update(
    suites_for(TrackerSuite, "make_tracker", Good, FAULTS, make=lambda plugin: plugin, **COMMON)
)
TestGoodLoss = good(LossAlone, records=("step", "loss"))
TestGoodBuffer = good(Buffer, durable=False)
TestGoodService = good(Service, truncates_on_resume=False)
TestGoodSingle = good(OneRun, concurrent_runs=False)
TestGoodReport = good(Report, metrics_file=True)
TestGoodNotice = good(Notice, reads_back=False, in_folder=False, recorded=TrackerSuite.recorded)
