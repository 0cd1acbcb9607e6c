"""The conformance suite for trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from promptbake.documents.typed import read_json_lines
from promptbake.interfaces import Tracker
from promptbake.runs.run_folder import Run
from promptbake.testing.inputs import InputTests
from promptbake.testing.keys import contents
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
from promptbake.testing.suite import noted, only_if
from promptbake.types import StepMetrics

MakeTracker = Callable[[], Tracker]
Followed = Callable[..., Path]
Rows = Sequence[Mapping[str, object]]
POLL = 0.05  # seconds


class InterruptedRunError(Exception):
    """What interrupts a run here."""


class TrackerSuite(InputTests):
    """Fixture `make_tracker`: a function without arguments that makes a tracker, one for each run.

    Supply the method `recorded`, too, by which the suite reads what was recorded; where nothing can
    be read back, `reads_back = False` leaves out all tests of what is recorded. `records` are the
    fields of StepMetrics that are recorded.

    - `truncates_on_resume = False`: later steps stay recorded when a run resumes from an earlier
      one.
    - `durable = False`: what was logged may be lost when the process is killed. `timeout` is how
      many seconds it may take until it is stored.
    - `concurrent_runs = False`: a process can track one run only at a time.
    - `in_folder = False`: nothing is written below the run's folder.
    - `metrics_file = True`: it writes metrics.jsonl, from which the report draws its curves.
    """

    fixture = "make_tracker"
    reads_back: ClassVar[bool] = True
    records: ClassVar[tuple[str, ...]] = FIELDS
    truncates_on_resume: ClassVar[bool] = True
    durable: ClassVar[bool] = True
    timeout: ClassVar[float] = 0.0  # seconds
    concurrent_runs: ClassVar[bool] = True
    in_folder: ClassVar[bool] = True
    metrics_file: ClassVar[bool] = False

    def recorded(self, folder: Path) -> Rows:
        """What was recorded of the run in this folder; called any number of times.

        One mapping for each recorded step, in their order, by the names of the fields of
        StepMetrics; what was not recorded is left out or None. Empty where no step was logged.
        """
        raise NotImplementedError("supply the method `recorded`, or set `reads_back = False`")

    def _input(self) -> dict[str, Any]:
        return config()

    def _apply(self, make_tracker: MakeTracker, given: dict[str, Any], folder: Path) -> None:
        with noted("the config holds tables in tables, lists and None"):
            follow(make_tracker, run_folder(folder / "pirate"), steps(0, 2), settings=given)

    @pytest.fixture
    def followed(self, make_tracker: MakeTracker, tmp_path: Path) -> Followed:
        """Lets a tracker follow a run, from its first step or after one; the run's folder."""

        def follow_on(logged: Sequence[StepMetrics], after: int = 0) -> Path:
            folder = tmp_path / "pirate"
            follow(make_tracker, folder if folder.exists() else run_folder(folder), logged, after)
            return folder

        return follow_on

    def test_what_it_recorded_can_be_read_back(self) -> None:
        supplied = type(self).recorded is not TrackerSuite.recorded
        assert supplied == self.reads_back, (
            "supply the method `recorded`, or set `reads_back = False` where nothing can be read"
            if self.reads_back
            else "`recorded` is supplied, so leave `reads_back` as True"
        )
        unknown = set(self.records) - set(FIELDS)
        assert not unknown, f"`records` has {unknown}: the fields are {', '.join(FIELDS)}"
        assert {"step", "loss"} <= set(self.records), "`records` has step and loss at the least"

    @only_if("reads_back")
    def test_every_step_is_recorded_once_and_in_order(self, followed: Followed) -> None:
        with noted("look at step 0, at the last step, and at steps that are counted anew"):
            check_steps(self.recorded(followed(steps(0, LAST))), steps(0, LAST))

    @only_if("reads_back")
    def test_every_value_is_recorded_as_it_was_logged(self, followed: Followed) -> None:
        by_step = {row["step"]: row for row in self.recorded(followed(steps(0, LAST)))}
        logged = [metrics for metrics in steps(0, LAST) if metrics.step in by_step]
        assert logged, "no step is recorded"
        check_values([by_step[each.step] for each in logged], logged, self.records)

    @only_if("reads_back")
    def test_what_was_not_measured_is_not_recorded(self, followed: Followed) -> None:
        folder = followed(steps(0, LAST))
        logged: dict[object, StepMetrics] = {each.step: each for each in steps(0, LAST)}
        for row in self.recorded(folder):
            for name in FIELDS:
                if getattr(logged.get(row["step"]), name, 0) is None:
                    assert row.get(name) is None, (
                        f"{name} of step {row['step']} was not measured, and is recorded as "
                        f"{row[name]!r}: leave out what is None"
                    )

    @only_if("reads_back")
    def test_a_run_that_resumes_keeps_its_steps(self, followed: Followed) -> None:
        folder = followed(steps(0, 3))
        followed(steps(4, LAST), after=3)
        with noted("a run resumed after step 3, which was the last: all before it is kept"):
            self._check(folder, steps(0, LAST))

    @only_if("reads_back")
    def test_steps_after_the_one_that_it_resumes_from_are_discarded(
        self, followed: Followed
    ) -> None:
        folder = followed(steps(0, 4))
        followed(steps(3, LAST, shift=0.5), after=2)
        logged = [*steps(0, 2), *steps(3, LAST, shift=0.5)]
        if self.truncates_on_resume:
            with noted("a run that had got to step 4 resumed after step 2: discard what is later"):
                self._check(folder, logged)
            return
        recorded = {row.get("step") for row in self.recorded(folder)}
        assert recorded == {each.step for each in logged}, (
            f"it recorded the steps {sorted(map(str, recorded))}; logged were 0 to {LAST}"
        )
        agrees = False
        with suppress(AssertionError):
            self._check(folder, logged)
            agrees = True
        assert not agrees, "it does discard them: leave `truncates_on_resume` as True"

    @only_if("reads_back")
    def test_a_run_may_resume_whose_start_it_did_not_see(self, followed: Followed) -> None:
        with noted("a tracker may be added to a run that was started without it"):
            folder = followed(steps(4, LAST), after=3)
            check_steps(self.recorded(folder), steps(4, LAST))

    @only_if("reads_back")
    def test_a_run_that_starts_again_has_nothing_of_the_earlier_one(
        self, followed: Followed
    ) -> None:
        folder = followed(steps(0, LAST))
        followed(steps(0, 2, shift=0.5))
        with noted("a run starts anew where `step` is 0: what is there is an earlier one's"):
            self._check(folder, steps(0, 2, shift=0.5))

    def test_a_run_may_end_before_its_first_step(self, followed: Followed) -> None:
        with noted("a run was started and finished, and nothing was logged"):
            folder = followed([])
            self._check_if_readable(folder, [])

    def test_an_interrupted_run_keeps_its_steps(
        self, make_tracker: MakeTracker, tmp_path: Path
    ) -> None:
        folder = run_folder(tmp_path / "pirate")
        with noted("`finish` was called while an exception was being handled"):
            with suppress(InterruptedRunError):
                follow(make_tracker, folder, interrupted(steps(0, 3)))
            self._check_if_readable(folder, steps(0, 3))

    @only_if("reads_back")
    @only_if("durable")
    def test_a_step_is_stored_before_the_run_ends(
        self, make_tracker: MakeTracker, tmp_path: Path
    ) -> None:
        folder = run_folder(tmp_path / "pirate")
        tracker = make_tracker()
        tracker.start(folder, config(), 0)
        try:
            for metrics in steps(0, 3):
                tracker.log(metrics)
            until = time.monotonic() + self.timeout
            while len(rows := self.recorded(folder)) < 4 and time.monotonic() < until:
                time.sleep(POLL)
        finally:
            tracker.finish()
        with noted("a killed process calls no `finish`: flush after each step, or see `durable`"):
            check_steps(rows, steps(0, 3))

    @only_if("reads_back")
    def test_two_runs_do_not_mix(self, make_tracker: MakeTracker, tmp_path: Path) -> None:
        runs = [(run_folder(tmp_path / "pirate"), 0.0), (run_folder(tmp_path / "hermit"), 0.5)]
        if self.concurrent_runs:
            with ExitStack() as ending:
                trackers = [make_tracker() for _ in runs]
                for tracker, (folder, _) in zip(trackers, runs, strict=True):
                    tracker.start(folder, config(), 0)
                    ending.callback(tracker.finish)
                for n in range(3):
                    for tracker, (_, shift) in zip(trackers, runs, strict=True):
                        tracker.log(steps(0, 2, shift)[n])
        else:
            for folder, shift in runs:
                follow(make_tracker, folder, steps(0, 2, shift))
        with noted("two runs, at a time or in turn: look for what modules and classes keep"):
            for folder, shift in runs:
                self._check(folder, steps(0, 2, shift))

    def test_it_leaves_the_files_of_the_run_unchanged(
        self, make_tracker: MakeTracker, tmp_path: Path
    ) -> None:
        folder = run_folder(tmp_path / "pirate")
        if not self.metrics_file:
            Run(folder).metrics.write_text('{"step": 0}\n')
        before = contents(folder)
        follow(make_tracker, folder, steps(0, 4))
        follow(make_tracker, folder, steps(3, 4), after=2)
        after = contents(folder)
        changed = [name for name, content in before.items() if after.get(name) != content]
        assert not changed, (
            f"{', '.join(changed)} changed or disappeared: give your files names of their own. "
            "metrics.jsonl is written by the tracker that sets `metrics_file`"
        )

    @only_if("metrics_file")
    def test_the_report_can_read_its_metrics(self, followed: Followed) -> None:
        folder = followed(steps(0, LAST))
        path = Run(folder).metrics
        assert path.is_file(), f"`metrics_file` is True, and there is no {path.name}"
        with noted(f"{path.name} has a JSON object for each step, with the fields of StepMetrics"):
            rows = read_json_lines(path)
            check_steps(rows, steps(0, LAST))
            check_values(rows, steps(0, LAST), FIELDS)

    def test_it_writes_in_the_folder_of_the_run_alone(
        self, make_tracker: MakeTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = run_folder(Path("runs") / "pirate")
        before = contents(folder)
        with noted(f"the run's folder is {folder}, relative to the working folder"):
            follow(make_tracker, folder, steps(0, LAST))
            self._check_if_readable(folder, steps(0, LAST), values=False)
        outside = [name for name in contents(tmp_path) if not Path(name).is_relative_to(folder)]
        assert not outside, (
            f"{', '.join(outside)} is in the working folder, and the run's folder is {folder}"
        )
        assert self.in_folder or contents(folder).keys() == before.keys(), (
            "it writes below the run's folder: leave `in_folder` as True"
        )

    @only_if("in_folder")
    def test_a_folder_that_cannot_be_written_is_an_error(
        self, make_tracker: MakeTracker, tmp_path: Path
    ) -> None:
        folder = tmp_path / "pirate"
        folder.write_text("a file")
        raised = None
        try:
            follow(make_tracker, folder, steps(0, 2))
        except Exception as error:
            raised = error
        assert raised is not None, (
            "a file stands where the run's folder should be, and no error was raised: do not "
            "suppress OSError; where nothing is written there, set `in_folder = False`"
        )
        assert folder.is_file(), f"{raised!r} was raised, and the file in the way is deleted"

    def _check(self, folder: Path, logged: Sequence[StepMetrics]) -> None:
        rows = self.recorded(folder)
        check_steps(rows, logged)
        check_values(rows, logged, self.records)

    def _check_if_readable(
        self, folder: Path, logged: Sequence[StepMetrics], values: bool = True
    ) -> None:
        if self.reads_back:
            check_steps(self.recorded(folder), logged)
            if values:
                self._check(folder, logged)


def interrupted(logged: Sequence[StepMetrics]) -> Iterator[StepMetrics]:
    """The steps, and then an error."""
    yield from logged
    raise InterruptedRunError
