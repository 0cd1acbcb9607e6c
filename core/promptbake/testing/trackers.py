"""The conformance suite for trackers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar

import pytest

from promptbake.files import read_json_lines
from promptbake.interfaces import Tracker
from promptbake.runs.run_folder import Run
from promptbake.testing.keys import check_unseen, contents, everything_logged
from promptbake.testing.steps import (
    FIELDS,
    LAST,
    check_steps,
    check_values,
    config,
    follow,
    run_folder,
    steps,
)
from promptbake.testing.suite import Suite, noted
from promptbake.types import StepMetrics

Make = Callable[[], Tracker]
Rows = Sequence[Mapping[str, object]]
POLL = 0.05  # seconds


class CutShortError(Exception):
    """What cuts a run short here."""


class TrackerSuite(Suite):
    """Fixture `make_tracker`: a function without arguments that makes a tracker, one for each run.

    Supply the method `told`, too, by which the suite reads what was recorded; where nothing can be
    read back, `reads_back = False` leaves out all tests of what is recorded. `records` are the
    fields of StepMetrics that are recorded.

    - `rewinds = False`: what was told cannot be taken back when a run goes on from an earlier step.
    - `durable = False`: what was told may be lost when the process is killed. `patience` is how
      many seconds it may take until it is kept.
    - `side_by_side = False`: a process can track one run only at a time.
    - `in_folder = False`: nothing is written below the run's folder.
    - `metrics_file = True`: it writes metrics.jsonl, from which the report draws its curves.
    """

    reads_back: ClassVar[bool] = True
    records: ClassVar[tuple[str, ...]] = FIELDS
    rewinds: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    patience: ClassVar[float] = 0.0  # seconds
    side_by_side: ClassVar[bool] = True
    in_folder: ClassVar[bool] = True
    metrics_file: ClassVar[bool] = False

    def told(self, folder: Path) -> Rows:
        """What was recorded of the run in this folder, as often as asked.

        One mapping for each recorded step, in their order, by the names of the fields of
        StepMetrics; what was not recorded is left out or None. Empty where no step was told.
        """
        raise NotImplementedError("supply the method `told`, or set `reads_back = False`")

    def test_what_it_recorded_can_be_read_back(self) -> None:
        supplied = type(self).told is not TrackerSuite.told
        assert supplied == self.reads_back, (
            "supply the method `told`, or set `reads_back = False` where nothing can be read back"
            if self.reads_back
            else "`told` is there, so leave `reads_back` as True"
        )
        self.capable_of("reads_back")
        unknown = set(self.records) - set(FIELDS)
        assert not unknown, f"`records` holds {unknown}: the fields are {', '.join(FIELDS)}"
        assert {"step", "loss"} <= set(self.records), "`records` holds step and loss at the least"

    def test_every_step_is_recorded_once_and_in_order(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        folder = self._followed(make_tracker, tmp_path / "pirate", steps(0, LAST))
        with noted("look at step 0, at the last step, and at steps that are counted anew"):
            check_steps(self.told(folder), steps(0, LAST))

    def test_every_value_is_recorded_as_it_was_told(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        folder = self._followed(make_tracker, tmp_path / "pirate", steps(0, LAST))
        by_step = {row["step"]: row for row in self.told(folder)}
        told = [metrics for metrics in steps(0, LAST) if metrics.step in by_step]
        assert told, "no step is recorded"
        check_values([by_step[each.step] for each in told], told, self.records)

    def test_what_was_not_measured_is_not_recorded(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        folder = self._followed(make_tracker, tmp_path / "pirate", steps(0, LAST))
        told: dict[object, StepMetrics] = {each.step: each for each in steps(0, LAST)}
        for row in self.told(folder):
            for name in FIELDS:
                if getattr(told.get(row["step"]), name, 0) is None:
                    assert row.get(name) is None, (
                        f"{name} of step {row['step']} was not measured, and is recorded as "
                        f"{row[name]!r}: leave out what is None"
                    )

    def test_a_run_that_goes_on_keeps_what_it_was_told(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        folder = self._followed(make_tracker, tmp_path / "pirate", steps(0, 3))
        follow(make_tracker, folder, steps(4, LAST), after=3)
        with noted("a run went on after step 3, which was the last: all before it is to be kept"):
            check_steps(self.told(folder), steps(0, LAST))
            check_values(self.told(folder), steps(0, LAST), self.records)

    def test_what_was_told_after_the_step_is_void(self, make_tracker: Make, tmp_path: Path) -> None:
        folder = self._followed(make_tracker, tmp_path / "pirate", steps(0, 4))
        follow(make_tracker, folder, steps(3, LAST, shift=0.5), after=2)
        told = [*steps(0, 2), *steps(3, LAST, shift=0.5)]
        found = self.told(folder)
        if not self.rewinds:
            recorded = {row.get("step") for row in found}
            assert recorded == {each.step for each in told}, (
                f"it recorded the steps {sorted(map(str, recorded))}, and was told 0 to {LAST}"
            )
            assert not self._agrees(found, told), "it does take them back: leave `rewinds` as True"
            return
        with noted("a run that had got to step 4 went on after step 2: drop what is later"):
            self._check(found, told)

    def test_a_run_may_go_on_that_it_has_not_seen_begin(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        with noted("a tracker may be added to a run that was begun without it"):
            folder = self._followed(make_tracker, tmp_path / "pirate", steps(4, LAST), after=3)
            check_steps(self.told(folder), steps(4, LAST))

    def test_a_run_that_begins_anew_has_nothing_of_the_earlier_one(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        folder = self._followed(make_tracker, tmp_path / "pirate", steps(0, LAST))
        follow(make_tracker, folder, steps(0, 2, shift=0.5))
        with noted("a run begins anew where `step` is 0: what is there is an earlier one's"):
            self._check(self.told(folder), steps(0, 2, shift=0.5))

    def test_a_run_may_end_before_its_first_step(self, make_tracker: Make, tmp_path: Path) -> None:
        folder = run_folder(tmp_path / "pirate")
        with noted("a run was started and finished, and nothing was logged"):
            follow(make_tracker, folder, [])
            if self.reads_back:
                check_steps(self.told(folder), [])

    def test_a_run_that_is_cut_short_keeps_what_it_was_told(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        folder = run_folder(tmp_path / "pirate")
        with noted("`finish` was called while an error was on its way"):
            with suppress(CutShortError):
                follow(make_tracker, folder, cut_short(steps(0, 3)))
            if self.reads_back:
                self._check(self.told(folder), steps(0, 3))

    def test_what_was_told_is_kept_before_the_run_ends(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        self.capable_of("reads_back")
        self.capable_of("durable")
        folder = run_folder(tmp_path / "pirate")
        tracker = make_tracker()
        tracker.start(folder, config(), 0)
        try:
            for metrics in steps(0, 3):
                tracker.log(metrics)
            found = self._soon(folder, 4)
        finally:
            tracker.finish()
        with noted("a killed process calls no `finish`: flush after each step, or see `durable`"):
            check_steps(found, steps(0, 3))

    def test_two_runs_do_not_mix(self, make_tracker: Make, tmp_path: Path) -> None:
        self.capable_of("reads_back")
        one, other = run_folder(tmp_path / "pirate"), run_folder(tmp_path / "hermit")
        if self.side_by_side:
            with ExitStack() as ending:
                first, second = make_tracker(), make_tracker()
                for tracker, folder in ((first, one), (second, other)):
                    tracker.start(folder, config(), 0)
                    ending.callback(tracker.finish)
                for here, there in zip(steps(0, 2), steps(0, 2, shift=0.5), strict=True):
                    first.log(here)
                    second.log(there)
        else:
            follow(make_tracker, one, steps(0, 2))
            follow(make_tracker, other, steps(0, 2, shift=0.5))
        with noted(
            "two runs at a time, or one after the other: look for what modules and classes keep"
        ):
            self._check(self.told(one), steps(0, 2))
            self._check(self.told(other), steps(0, 2, shift=0.5))

    def test_it_leaves_the_files_of_the_run_alone(self, make_tracker: Make, tmp_path: Path) -> None:
        folder = run_folder(tmp_path / "pirate")
        if not self.metrics_file:
            Run(folder).metrics.write_text('{"step": 0}\n')
        before = contents(folder)
        follow(make_tracker, folder, steps(0, 4))
        follow(make_tracker, folder, steps(3, 4), after=2)
        after = contents(folder)
        changed = [name for name, content in before.items() if after.get(name) != content]
        assert not changed, (
            f"{', '.join(changed)} changed or went: give your files a name of their own. "
            "metrics.jsonl is written by the tracker that sets `metrics_file`"
        )

    def test_the_report_can_read_its_metrics(self, make_tracker: Make, tmp_path: Path) -> None:
        self.capable_of("metrics_file")
        folder = run_folder(tmp_path / "pirate")
        follow(make_tracker, folder, steps(0, LAST))
        path = Run(folder).metrics
        assert path.is_file(), f"`metrics_file` is True, and there is no {path.name}"
        with noted(
            f"{path.name} has a JSON object for a step, by the names of StepMetrics' fields"
        ):
            found = read_json_lines(path)
            check_steps(found, steps(0, LAST))
            check_values(found, steps(0, LAST), FIELDS)

    def test_it_writes_in_the_folder_of_the_run_alone(
        self, make_tracker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = run_folder(Path("runs") / "pirate")
        before = contents(folder)
        with noted(f"the run's folder is {folder}, relative to the working folder"):
            follow(make_tracker, folder, steps(0, LAST))
            if self.reads_back:
                check_steps(self.told(folder), steps(0, LAST))
        outside = [name for name in contents(tmp_path) if not Path(name).is_relative_to(folder)]
        assert not outside, (
            f"{', '.join(outside)} is in the working folder, where the run's folder is {folder}"
        )
        if not self.in_folder:
            assert contents(folder).keys() == before.keys(), (
                "it writes below the run's folder: leave `in_folder` as True"
            )

    def test_a_folder_that_cannot_be_written_is_an_error(
        self, make_tracker: Make, tmp_path: Path
    ) -> None:
        self.capable_of("in_folder")
        folder = tmp_path / "pirate"
        folder.write_text("a file")
        came = None
        try:
            follow(make_tracker, folder, steps(0, 2))
        except Exception as error:
            came = error
        assert came is not None, (
            "a file stands where the run's folder should be, and no error came: do not swallow "
            "OSError; where nothing is written in the folder, set `in_folder = False`"
        )
        assert folder.is_file(), f"{came!r} came, and the file that stood in the way is gone"

    def test_it_leaves_the_config_as_it_was(self, make_tracker: Make, tmp_path: Path) -> None:
        given = config()
        before = copy.deepcopy(given)
        with noted("the config holds tables in tables, lists and None"):
            follow(make_tracker, run_folder(tmp_path / "pirate"), steps(0, 1), settings=given)
        assert given == before, "the config was changed: look for pop, update and setdefault"

    def test_it_prints_nothing(
        self, make_tracker: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        follow(make_tracker, run_folder(tmp_path / "pirate"), steps(0, 2))
        printed = capfd.readouterr().out
        assert not printed, f"{printed!r} is on stdout, which is the command's own"

    def test_no_key_is_seen(
        self,
        request: pytest.FixtureRequest,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.capable_of("keys")
        monkeypatch.chdir(tmp_path)
        with everything_logged(caplog):
            make_tracker: Make = request.getfixturevalue("make_tracker")
            follow(make_tracker, run_folder(tmp_path / "pirate"), steps(0, 2))
        out, err = capfd.readouterr()
        printed = {"stdout": out, "stderr": err, "a log": caplog.text}
        check_unseen(self.keys, {**printed, **contents(tmp_path)})

    def _followed(
        self, make_tracker: Make, path: Path, told: Sequence[StepMetrics], after: int = 0
    ) -> Path:
        """The folder of a new run that a tracker followed, if it can be read back."""
        self.capable_of("reads_back")
        folder = run_folder(path)
        follow(make_tracker, folder, told, after)
        return folder

    def _check(self, found: Rows, told: Sequence[StepMetrics]) -> None:
        check_steps(found, told)
        check_values(found, told, self.records)

    def _agrees(self, found: Rows, told: Sequence[StepMetrics]) -> bool:
        try:
            self._check(found, told)
        except AssertionError:
            return False
        return True

    def _soon(self, folder: Path, count: int) -> Rows:
        """What is told, as soon as it is so many steps or `patience` is at its end."""
        until = time.monotonic() + self.patience
        while len(found := self.told(folder)) < count and time.monotonic() < until:
            time.sleep(POLL)
        return found


def cut_short(told: Sequence[StepMetrics]) -> Iterator[StepMetrics]:
    """The steps, and then an error."""
    yield from told
    raise CutShortError
