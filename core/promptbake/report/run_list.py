"""The runs in a folder: how far each came, and how much of the gap it closed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from promptbake.distill.checkpoints import differing
from promptbake.documents.typed import Count, Document, parse, read_own_lines
from promptbake.errors import BakeError
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.run_folder import Run
from promptbake.types import StepMetrics

Status = Literal["begun", "data", "baking", "baked", "passed", "failed", "damaged", "unreadable"]


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        run: Its folder.
        status: How far it came: `begun` and `baking` are stages that have not finished, `passed`
            and `failed` are what `verify` found, `damaged` is an adapter or a verify.json that is
            not as it was written, and `unreadable` is a run.json that cannot be read.
        problem: What is damaged or unreadable, and why.
        prompt: The prompt's name; empty where it is not on record.
        model: The model's name; empty where it is not on record.
        step: The optimizer steps that were taken; None where they are not known.
        steps: The optimizer steps that were planned; None where they are not known.
        gap_closed: The share of the held-out gap that is closed; None before `verify`.
        gap_closed_ci95: Its 95 % interval.
        updated: When the run's record, metrics or result last changed, in local time.
    """

    run: Path
    status: Status
    problem: str = ""
    prompt: str = ""
    model: str = ""
    step: int | None = None
    steps: int | None = None
    gap_closed: float | None = None
    gap_closed_ci95: tuple[float, float] | None = None
    updated: datetime | None = None

    @property
    def status_line(self) -> str:
        """The status for a person, with steps and problem."""
        if self.status == "baking":
            known = self.step is not None and self.steps is not None
            return f"bake {self.step}/{self.steps} steps" if known else "bake begun"
        lines: dict[Status, str] = {
            "begun": "data begun",
            "data": "data",
            "baked": "baked",
            "passed": "verified: passed",
            "failed": "verified: FAILED",
            "damaged": f"damaged: {self.problem}",
            "unreadable": f"unreadable: {self.problem}",
        }
        return lines[self.status]

    def as_json(self) -> dict[str, Any]:
        """What `promptbake runs --json` prints of it."""
        updated = self.updated.isoformat(timespec="seconds") if self.updated else None
        return vars(self) | {"run": str(self.run), "updated": updated}


def list_runs(folder: str | Path = "runs") -> list[RunSummary]:
    """The runs in a folder, the latest first; or the one run that the folder is.

    A run that cannot be read is in the list with the reason. Folders that are no runs are not.

    Raises:
        BakeError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BakeError(
            f"{folder}: is no folder; give the one that the runs are in, or begin a run with "
            "`promptbake data PROMPT`"
        )
    found = [folder] if _is_run(folder) else sorted(filter(_is_run, folder.iterdir()))
    return sorted(map(summarise, found), key=_age)


def summarise(path: Path) -> RunSummary:
    """One run, from its record and its verify.json; nothing is opened, and nothing raised."""
    try:
        return _summary(Run(path))
    except (BakeError, OSError) as error:
        return RunSummary(path, "unreadable", str(error))


class _Data(Document):
    """What is on record of a data stage."""

    done: bool
    prompt: str = ""


class _Bake(Document):
    """What is on record of a bake."""

    done: bool
    clean: bool = True
    steps: Count | None = None
    adapter: dict[str, str] = Field(default_factory=dict)


class _Stages(Document):
    data: _Data | None = None
    bake: _Bake | None = None


class _Model(Document):
    name: str = ""


class _Config(Document):
    model: _Model = _Model()


class _Record(Document):
    """What is read of run.json here."""

    config: _Config = _Config()
    stages: _Stages = _Stages()


def _is_run(path: Path) -> bool:
    """Whether it has a record; True where that cannot be told, so that it is listed."""
    try:
        return (path / Run.RECORD).exists()
    except OSError:
        return True


def _age(summary: RunSummary) -> float:
    return -summary.updated.timestamp() if summary.updated else 0.0


def _summary(run: Run) -> RunSummary:
    record = parse(_Record, run.record, str(run.record_file))
    data, bake = record.stages.data, record.stages.bake
    summary = RunSummary(
        run.path,
        "data" if data and data.done else "begun",
        prompt=data.prompt if data else "",
        model=record.config.model.name,
        updated=_updated(run),
    )
    if not bake:
        return summary
    if not bake.done:
        step, steps = _progress(run) if bake.clean else (None, None)
        return replace(summary, status="baking", step=step, steps=steps)
    summary = replace(summary, status="baked", step=bake.steps, steps=bake.steps)
    if damaged := differing(run.adapter, bake.adapter):
        problem = f"{run.adapter}: {', '.join(damaged)}: not as the bake left it"
        return replace(summary, status="damaged", problem=problem)
    return _with_result(summary, run) if run.verify.exists() else summary


def _with_result(summary: RunSummary, run: Run) -> RunSummary:
    try:
        result = VerifyResult.load(run.verify)
    except BakeError as error:
        return replace(summary, status="damaged", problem=str(error))
    return replace(
        summary,
        status="passed" if result.passed else "failed",
        prompt=result.prompt,
        gap_closed=result.gap_closed,
        gap_closed_ci95=result.kl.gap_closed_ci95,
    )


def _progress(run: Run) -> tuple[int | None, int | None]:
    """The last step that was logged, and how many there are to be."""
    try:
        lines = read_own_lines(StepMetrics, run.metrics)
    except BakeError:
        return None, None
    return (lines[-1].step, lines[-1].steps) if lines else (None, None)


def _updated(run: Run) -> datetime:
    files = (run.record_file, run.metrics, run.verify)
    latest = max(file.stat().st_mtime for file in files if file.exists())
    return datetime.fromtimestamp(latest).astimezone()
