"""promptbake beside the reference recipe, TRL's SDFT and plain SFT, on this machine.

`make bench` runs every contestant in a process of its own, one after another, prints the table,
writes runs/bench/local.json and local.svg, and exits 1 where promptbake misses a bar. All have the
same model, prompt, queries, seeds and held-out set, and the same measure of it. What was measured
by the same code before is kept; --force measures it again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from local_bench import summary
from local_bench.environment import ROOT, code_digest, make_trl_environment, run_child
from local_bench.records import NAMES, TRL, Job, Machine, Outcome, Point, Task
from local_bench.show import LABELS, plot, show
from local_bench.summary import Bar, Row
from rich.console import Console

from promptbake.documents.typed import OwnDocument, parse_json, read_json
from promptbake.errors import BakeError, nearest
from promptbake.files import write_atomic

FOLDER = Path("runs/bench")
PROMPTS = {
    "yoda": ROOT / "prompts" / "yoda.md",
    "innkeeper": ROOT / "ci" / "local_bench" / "prompts" / "innkeeper.md",
}
CONTESTANTS = ("ours", "reference", "sdft", "sft")
RunChild = Callable[[Job, Callable[[str], None]], None]


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        prompts: Names of PROMPTS, or files.
        contestants: Of NAMES.
        seeds: How many, from 0 on.
        limit: Seconds on a contestant's clock.
        settings: On top of the profile `local`.
        force: Measure again what was measured by the same code.
        folder: Where everything is written.
    """

    prompts: tuple[str, ...] = tuple(PROMPTS)
    contestants: tuple[str, ...] = CONTESTANTS
    seeds: int = 3
    limit: float = 3600.0
    settings: tuple[str, ...] = ()
    force: bool = False
    folder: Path = FOLDER

    def jobs(self) -> list[list[Job]]:
        """The jobs of each seed and prompt, in the order in which they are run."""
        return [
            [self._job(contestant, prompt, seed) for contestant in self.contestants]
            for seed in range(self.seeds)
            for prompt in self.prompts
        ]

    def _job(self, contestant: str, prompt: str, seed: int) -> Job:
        """One job. Raises BakeError for a prompt that is neither a name nor a file."""
        file = PROMPTS.get(prompt, Path(prompt))
        if not file.is_file():
            raise BakeError(
                f"--prompts {prompt}: is no file; choose one, or from: {', '.join(PROMPTS)}"
            )
        return Job(
            contestant=contestant,
            prompt=str(file),
            seed=seed,
            folder=str(self.folder / f"{file.stem}-{seed}"),
            limit=self.limit,
            settings=self.settings,
        )


class Report(OwnDocument):
    """runs/bench/local.json."""

    format: int = 1
    date: str
    machine: Machine
    contestants: tuple[str, ...]
    seeds: int
    limit: float
    settings: tuple[str, ...]
    rows: tuple[Row, ...]
    bars: tuple[Bar, ...]
    outcomes: tuple[Outcome, ...]


def read_plan(arguments: Sequence[str]) -> Plan:
    """The command line. Raises BakeError for what is unknown or makes no sense."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--prompts", default=",".join(PROMPTS), help="names or files, by commas")
    parser.add_argument("--contestants", default=",".join(CONTESTANTS), help=", ".join(NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for a contestant")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--force", action="store_true", help="measure everything again")
    given = parser.parse_args(arguments)
    contestants = tuple(given.contestants.split(","))
    for name in contestants:
        if name not in NAMES:
            hint = nearest(name, NAMES)
            raise BakeError(f"--contestants {name}: unknown; choose from: {', '.join(NAMES)}{hint}")
    if given.seeds < 1 or not given.limit > 0:
        raise BakeError(
            f"--seeds {given.seeds} --limit {given.limit:g}: expected at least one seed and a "
            "limit above 0 seconds"
        )
    return Plan(
        tuple(given.prompts.split(",")),
        tuple(dict.fromkeys(contestants)),
        given.seeds,
        given.limit,
        tuple(given.set),
        given.force,
    )


def run(plan: Plan, run_job: RunChild, out: Console) -> Report:
    """Run every job that has not been run by the same code, and sum up."""
    machine_file = _run_quietly(plan.jobs()[0][0], "machine", run_job)
    machine = read_json(Machine, machine_file)
    outcomes = list[Outcome]()
    for jobs in plan.jobs():
        out.print(f"{jobs[0].shared.name}: the held-out set")
        _run_quietly(jobs[0], "prepare", run_job)
        outcomes += [_outcome(plan, job, run_job, out) for job in jobs]
    rows = summary.rows(outcomes, machine)
    return Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        contestants=plan.contestants,
        seeds=plan.seeds,
        limit=plan.limit,
        settings=plan.settings,
        rows=tuple(rows),
        bars=tuple(summary.bars(rows)),
        outcomes=tuple(outcomes),
    )


def _run_quietly(job: Job, contestant: str, run_job: RunChild) -> Path:
    """Run what is no contestant, for the same prompt and seed; returns the file it writes."""
    other = job.model_copy(update={"contestant": contestant})
    run_job(other, lambda line: None)
    return other.outcome_file


def _outcome(plan: Plan, job: Job, run_job: RunChild, out: Console) -> Outcome:
    code = code_digest(job.contestant, Path(job.prompt))
    what = f"{Path(job.prompt).stem}, seed {job.seed}, {LABELS[job.contestant]}"
    if not plan.force and (kept := _kept(job, code)):
        out.print(f"{what}: kept, measured {kept.date}")
        return kept

    def listen(line: str) -> None:
        point = parse_json(Point, line, what)
        out.print(f"{what}: {point.seconds:.0f} s, step {point.step}: {point.gap_closed:.3f}")

    run_job(job, listen)
    outcome = read_json(Outcome, job.outcome_file)
    outcome = outcome.model_copy(update={"code": code, "prompt": Path(job.prompt).stem})
    write_atomic(job.outcome_file, outcome.model_dump_json(indent=1))
    return outcome


def _kept(job: Job, code: str) -> Outcome | None:
    if not job.outcome_file.exists():
        return None
    kept = read_json(Outcome, job.outcome_file)
    held_out = read_json(Task, job.task_file).held_out_digest
    return kept if is_current(kept, job, code, held_out) else None


def is_current(kept: Outcome, job: Job, code: str, held_out: str) -> bool:
    """Whether an earlier outcome of this contestant, prompt and seed still answers the job.

    One that ended at a lower limit than today's says too little.
    """
    same = (kept.code, kept.settings, kept.held_out_digest) == (code, job.settings, held_out)
    too_short = kept.ended == "limit" and kept.limit < job.limit
    return same and not too_short


def main(plan: Plan, run_job: RunChild | None = None) -> int:
    """Run the benchmark, print the table and write the files. Returns the exit status."""
    out = Console(highlight=False, markup=False, emoji=False)
    _ = plan.jobs()  # an unknown prompt is refused before anything runs
    if run_job is None:
        trl = Path()
        if TRL & set(plan.contestants):
            trl = make_trl_environment((plan.folder / "trl-venv").resolve())

        def run_job(job: Job, listen: Callable[[str], None]) -> None:
            run_child(job, trl, listen)

    report = run(plan, run_job, out)
    write_atomic(plan.folder / "local.json", report.model_dump_json(indent=1) + "\n")
    plot(report.outcomes, plan.folder / "local.svg")
    show(report.rows, report.bars, report.machine, out)
    return 0 if all(bar.passed for bar in report.bars) else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main(read_plan(sys.argv[1:])))
    except BakeError as error:
        print(f"make bench: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
