"""Faulty trackers. Run by test_faulty_plugins.py, which expects each to be caught."""

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
from faulty_suites import suite_for, suites_for

from promptbake.interfaces import Tracker
from promptbake.testing import TrackerSuite
from promptbake.types import StepMetrics

KEY = "TOY_API_KEY"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv(KEY, "toy-key-0123456789")
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


class Good:
    """Writes two files: the steps, line by line, and the config."""

    file = "toy.jsonl"

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        self.path = folder / self.file
        (folder / "toy.json").write_text(json.dumps(config))
        self.write(self.kept(read(self.path), step))

    def kept(self, rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        return [row for row in rows if step and row["step"] <= step]

    def log(self, metrics: StepMetrics) -> None:
        self.append([self.row(metrics)])

    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        return {name: value for name, value in vars(metrics).items() if value is not None}

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def finish(self) -> None:
        pass


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class LosesTheLastStep(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, config, step)
        self.held: list[StepMetrics] = []

    def log(self, metrics: StepMetrics) -> None:
        for held in self.held:
            super().log(held)
        self.held = [metrics]


class LosesStepZero(Good):
    def log(self, metrics: StepMetrics) -> None:
        if metrics.step:
            super().log(metrics)


class CountsTheStepsItself(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, config, step)
        self.count = step

    def log(self, metrics: StepMetrics) -> None:
        self.count += 1
        super().log(replace(metrics, step=self.count))


class RecordsTheLossAlone(Good):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        return {k: v for k, v in super().row(metrics).items() if k in ("step", "loss")}


class Bits(Good):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        row = super().row(metrics)
        return row | {"loss": row["loss"] / math.log(2)} if "loss" in row else row


class RenamesTheRate(Good):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        row = super().row(metrics)
        return row | {"learning_rate": row.pop("lr")} if "lr" in row else row


class RoundsTheValues(Good):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        row = super().row(metrics)
        return {name: round(value, 4) for name, value in row.items()}


class LeavesZeroOut(Good):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        row = super().row(metrics)
        return {name: value for name, value in row.items() if value or name in ("step", "epoch")}


class NoneIsZero(Good):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        return {name: value or 0 for name, value in vars(metrics).items()}


class NoneIsNotANumber(Good):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        return dict.fromkeys(vars(metrics), math.nan) | super().row(metrics)


class CarriesTheLastValueOn(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, config, step)
        self.last: dict[str, Any] = {}

    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        self.last |= super().row(metrics)
        return self.last


class ForgetsAllWhenItGoesOn(Good):
    def kept(self, rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        return []


class DropsTheStepItGoesOnAfter(Good):
    def kept(self, rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        return [row for row in rows if row["step"] < step]


class RepeatsSteps(Good):
    def kept(self, rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        return rows if step else []


class KeepsTheEarlierRun(Good):
    def kept(self, rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        return [row for row in rows if row["step"] <= step] if step else rows


class KeepsStepZeroOfTheEarlierRun(Good):
    def kept(self, rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        return [row for row in rows if row["step"] <= step]


class NeedsItsBeginning(Good):
    def kept(self, rows: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        if step and not rows:
            raise FileNotFoundError(self.path)
        return super().kept(rows, step)


class FailsWithoutAStep(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, config, step)
        self.losses: list[float] = []

    def log(self, metrics: StepMetrics) -> None:
        super().log(metrics)
        self.losses.append(metrics.loss or 0.0)

    def finish(self) -> None:
        self.lowest = min(self.losses)


class BuffersUntilTheEnd(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, config, step)
        self.rows: list[dict[str, Any]] = []

    def log(self, metrics: StepMetrics) -> None:
        self.rows.append(self.row(metrics))

    def finish(self) -> None:
        self.append(self.rows)


class LosesWhatWasCutShort(BuffersUntilTheEnd):
    def finish(self) -> None:
        if sys.exc_info()[0] is None:
            super().finish()


class KeepsTheRowsInItsClass(Good):
    rows: ClassVar[dict[int, dict[str, Any]]] = {}

    def log(self, metrics: StepMetrics) -> None:
        self.rows[metrics.step] = self.row(metrics)
        self.write(self.rows.values())


class KnowsOneRun(Good):
    """As a module does that keeps the run in a global."""

    current: ClassVar[list[Path]] = []

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        self.current[:] = [folder / self.file]
        super().start(folder, config, step)

    def log(self, metrics: StepMetrics) -> None:
        self.path = self.current[0]
        super().log(metrics)


class OverwritesRunJson(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, config, step)
        (folder / "run.json").write_text(json.dumps(config))


class WritesMetricsToo(Good):
    def finish(self) -> None:
        self.path.with_name("metrics.jsonl").write_text(self.path.read_text())


class WritesInTheWorkingFolder(Good):
    def finish(self) -> None:
        Path("toy.log").write_text("done")


class WritesBesideTheFolder(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, config, step)
        folder.with_name(f"{folder.name}.toy").write_text("begun")


class SwallowsErrors(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        with suppress(OSError):
            super().start(folder, config, step)

    def log(self, metrics: StepMetrics) -> None:
        with suppress(OSError):
            super().log(metrics)


class RemovesWhatIsInTheWay(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        if folder.is_file():
            folder.unlink()
        super().start(folder, config, step)


class ChangesTheConfig(Good):
    def start(self, folder: Path, config: Any, step: int) -> None:
        config["options"].pop("losses")
        super().start(folder, config, step)


class ExpectsAFlatConfig(Good):
    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        flat = {name: float(value) for table in config.values() for name, value in table.items()}
        super().start(folder, flat, step)


class Prints(Good):
    def log(self, metrics: StepMetrics) -> None:
        print(f"step {metrics.step}")  # noqa: T201
        super().log(metrics)


class WritesItsKey(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        super().start(folder, {"config": config, "environment": dict(os.environ)}, step)


class LogsItsKey(Good):
    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        logging.getLogger("toy").info("signed in with %s", os.environ[KEY])
        super().start(folder, config, step)


class Reported(Good):
    """Writes the metrics that the report reads."""

    file = "metrics.jsonl"


class ReportedUnderAnotherName(Reported):
    def row(self, metrics: StepMetrics) -> dict[str, Any]:
        return {"train/loss" if k == "loss" else k: v for k, v in super().row(metrics).items()}


class Forgetful(Good):
    """A notice on somebody's telephone."""

    def start(self, folder: Path, config: Mapping[str, object], step: int) -> None:
        pass

    def log(self, metrics: StepMetrics) -> None:
        pass


SPOILT = {
    LosesTheLastStep: "test_every_step_is_recorded_once_and_in_order",
    LosesStepZero: "test_every_step_is_recorded_once_and_in_order",
    CountsTheStepsItself: "test_every_step_is_recorded_once_and_in_order",
    RecordsTheLossAlone: "test_every_value_is_recorded_as_it_was_told",
    Bits: "test_every_value_is_recorded_as_it_was_told",
    RenamesTheRate: "test_every_value_is_recorded_as_it_was_told",
    RoundsTheValues: "test_every_value_is_recorded_as_it_was_told",
    LeavesZeroOut: "test_every_value_is_recorded_as_it_was_told",
    NoneIsZero: "test_what_was_not_measured_is_not_recorded",
    NoneIsNotANumber: "test_what_was_not_measured_is_not_recorded",
    CarriesTheLastValueOn: "test_what_was_not_measured_is_not_recorded",
    ForgetsAllWhenItGoesOn: "test_a_run_that_goes_on_keeps_what_it_was_told",
    DropsTheStepItGoesOnAfter: "test_a_run_that_goes_on_keeps_what_it_was_told",
    RepeatsSteps: "test_what_was_told_after_the_step_is_void",
    KeepsTheEarlierRun: "test_a_run_that_begins_anew_has_nothing_of_the_earlier_one",
    KeepsStepZeroOfTheEarlierRun: "test_a_run_that_begins_anew_has_nothing_of_the_earlier_one",
    NeedsItsBeginning: "test_a_run_may_go_on_that_it_has_not_seen_begin",
    FailsWithoutAStep: "test_a_run_may_end_before_its_first_step",
    BuffersUntilTheEnd: "test_what_was_told_is_kept_before_the_run_ends",
    LosesWhatWasCutShort: "test_a_run_that_is_cut_short_keeps_what_it_was_told",
    KeepsTheRowsInItsClass: "test_two_runs_do_not_mix",
    KnowsOneRun: "test_two_runs_do_not_mix",
    OverwritesRunJson: "test_it_leaves_the_files_of_the_run_alone",
    WritesMetricsToo: "test_it_leaves_the_files_of_the_run_alone",
    WritesInTheWorkingFolder: "test_it_writes_in_the_folder_of_the_run_alone",
    WritesBesideTheFolder: "test_it_writes_in_the_folder_of_the_run_alone",
    SwallowsErrors: "test_a_folder_that_cannot_be_written_is_an_error",
    RemovesWhatIsInTheWay: "test_a_folder_that_cannot_be_written_is_an_error",
    ChangesTheConfig: "test_it_leaves_the_config_as_it_was",
    ExpectsAFlatConfig: "test_it_leaves_the_config_as_it_was",
    Prints: "test_it_prints_nothing",
    WritesItsKey: "test_no_key_is_seen",
    LogsItsKey: "test_no_key_is_seen",
}


def maker(tracker: type[Good]) -> Callable[[], Callable[[], Tracker]]:
    """What the fixture `make_tracker` gives is a function itself: here, the class."""

    def make() -> Callable[[], Tracker]:
        return tracker

    make.__name__ = tracker.__name__
    return make


def told(self: TrackerSuite, folder: Path) -> list[dict[str, Any]]:
    return read(folder / (Reported if self.metrics_file else Good).file)


COMMON = {"told": told, "keys": (KEY,)}
SPOILT_MAKERS = {maker(tracker): caught_by for tracker, caught_by in SPOILT.items()}


def of(tracker: type[Good], caught_by: str | None = None, **members: Any) -> type[TrackerSuite]:
    return suite_for(TrackerSuite, "make_tracker", maker(tracker), caught_by, **COMMON | members)


globals().update(suites_for(TrackerSuite, "make_tracker", maker(Good), SPOILT_MAKERS, **COMMON))
TestGoodLoss = of(RecordsTheLossAlone, records=("step", "loss"))
TestGoodBuffer = of(BuffersUntilTheEnd, durable=False)
TestGoodService = of(RepeatsSteps, rewinds=False)
TestGoodSingle = of(KnowsOneRun, side_by_side=False)
TestGoodReport = of(Reported, metrics_file=True)
TestGoodNotice = of(Forgetful, reads_back=False, in_folder=False, told=TrackerSuite.told)
TestReportsUnderAnotherName = of(
    ReportedUnderAnotherName, "test_the_report_can_read_its_metrics", metrics_file=True
)
TestReportsNothing = of(Good, "test_the_report_can_read_its_metrics", metrics_file=True)
TestRecordsMore = of(Good, "test_every_value_is_recorded_as_it_was_told", records=("step", "loss"))
TestDoesRewind = of(Good, "test_what_was_told_after_the_step_is_void", rewinds=False)
TestCanBeReadBack = of(Good, "test_what_it_recorded_can_be_read_back", reads_back=False)
TestReadsNothingBack = of(Good, "test_what_it_recorded_can_be_read_back", told=TrackerSuite.told)
TestDoesWriteInTheFolder = of(
    Good, "test_it_writes_in_the_folder_of_the_run_alone", in_folder=False
)
