"""The commands from Python, for notebooks and programs: the same stages, the same run folders.

>>> import promptbake
>>> pirate = promptbake.Prompt("pirate", "Answer like a pirate who has lost his map.")
>>> job = {"profile": "mock", "settings": {"train.epochs": 3}, "quiet": True}
>>> dataset = promptbake.data(pirate, **job)
>>> len(dataset.training) > len(dataset.held_out) > 0
True
>>> promptbake.bake(pirate, **job).backend
'mock'
>>> result = promptbake.verify(pirate, **job)
>>> result.passed, result.kl.baked < result.kl.base
(True, True)

Each takes `prompt`, a file's path or a `Prompt`, and what a `Job` has; `list_runs`, `compare`
and `recheck` take folders. An error that you can fix is raised as a BakeError; a stage that was
stopped resumes when it is called again. What each does to a run is described in
`promptbake.commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

from promptbake import commands
from promptbake.types import Arm, Checkpoint, Dataset, Prompt

if TYPE_CHECKING:
    from promptbake.interfaces import BatchContext, BatchSource
    from promptbake.report.comparison import Comparison
    from promptbake.report.recheck import Recheck
    from promptbake.report.run_list import RunSummary
    from promptbake.report.verify_result import VerifyResult
    from promptbake.runs.session import Session
    from promptbake.stages.chat import Chat
    from promptbake.stages.plan import Plan

Function = TypeVar("Function", bound=Callable[..., object])


class Job(TypedDict, total=False):
    """What the command line takes beside the prompt, as keyword arguments."""

    profile: str  # a set of defaults; 'local' where it is not given
    config: str | Path | None  # a TOML file of settings
    settings: Mapping[str, object] | None  # by dotted key, as for --set
    run: str | Path | None  # the run's folder; runs/<prompt's name> where it is not given
    quiet: bool  # without progress bars and notes


def _described(function: Function) -> Function:
    function.__doc__ = getattr(commands, function.__name__).__doc__
    return function


@_described
def data(prompt: str | Path | Prompt, *, force: bool = False, **job: Unpack[Job]) -> Dataset:
    return commands.data(_open(prompt, job), force)


@_described
def bake(
    prompt: str | Path | Prompt,
    *,
    force: bool = False,
    keep: bool = False,
    start: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
    batches: Callable[[BatchContext], BatchSource] | None = None,
    **job: Unpack[Job],
) -> Checkpoint:
    session = _open(prompt, job)
    return commands.bake(session, force, keep, start=start, teacher=teacher, batches=batches)


@_described
def verify(
    prompt: str | Path | Prompt,
    *,
    force: bool = False,
    controls: bool = False,
    **job: Unpack[Job],
) -> VerifyResult:
    return commands.verify(_open(prompt, job), force, controls)


@_described
def plan(prompt: str | Path | Prompt, **job: Unpack[Job]) -> Plan:
    return commands.plan(_open(prompt, job))


@_described
def chat(
    prompt: str | Path | Prompt,
    *,
    arm: Arm = "baked",
    max_tokens: int = 256,
    temperature: float = 0.7,
    strength: float = 1.0,
    **job: Unpack[Job],
) -> Chat:
    return commands.chat(_open(prompt, job), arm, max_tokens, temperature, strength)


@_described
def export(
    prompt: str | Path | Prompt, to: str | Path, *, strength: float = 1.0, **job: Unpack[Job]
) -> Path:
    return commands.export(_open(prompt, job), Path(to), strength)


def list_runs(folder: str | Path = "runs") -> list[RunSummary]:
    """List the runs in a folder, the latest first; or the one run that the folder is.

    A run that cannot be read is in the list with the reason. Raises BakeError for no folder.

    >>> [(run.prompt, run.status) for run in promptbake.list_runs()]
    [('pirate', 'passed')]
    """
    from promptbake.report import run_list

    return run_list.list_runs(folder)


def compare(*runs: str | Path) -> Comparison:
    """Compare runs that `verify` has measured: two folders or more, each beside the first.

    Raises BakeError for fewer, and for what is no run or has no readable verify.json.

    >>> promptbake.compare("runs/pirate", "runs/pirate").differing_settings
    {}
    """
    from promptbake.report import comparison

    return comparison.compare(*runs)


def recheck(run: str | Path, *, models: bool = False, quiet: bool = False) -> Recheck:
    """Recompute what a run's verify.json says from its folder, and name what differs.

    With `models`, the models are measured again as well; nothing of it is written. Raises BakeError
    for a folder that is no run, or that `verify` has not measured.

    >>> promptbake.recheck("runs/pirate").passed
    True
    """
    from promptbake.progress import SilentReporter
    from promptbake.progress.terminal import RichReporter

    reporter = SilentReporter() if quiet else RichReporter()
    return commands.recheck(run, reporter, models=models)


def _open(prompt: str | Path | Prompt, job: Job) -> Session:
    from promptbake.progress import SilentReporter
    from promptbake.progress.terminal import RichReporter
    from promptbake.runs.session import open_session

    if unknown := sorted(job.keys() - Job.__annotations__.keys()):
        raise TypeError(
            f"unknown argument {unknown[0]!r}; choose from: {', '.join(Job.__annotations__)}"
        )
    config, run = job.get("config"), job.get("run")
    return open_session(
        prompt,
        profile=job.get("profile", "local"),
        config_file=None if config is None else Path(config),
        settings=job.get("settings") or {},
        run=run,
        reporter=SilentReporter() if job.get("quiet") else RichReporter(),
    )
