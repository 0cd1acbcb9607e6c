"""The commands that work on a run, described once: the command line and the Python API follow.

Each takes a Session and its own options, with their help in the annotations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from promptbake.errors import BakeError
from promptbake.types import Arm, Checkpoint, Dataset

if TYPE_CHECKING:
    from promptbake.interfaces import BatchContext, BatchSource
    from promptbake.progress import Reporter
    from promptbake.report.recheck import Recheck
    from promptbake.report.verify_result import VerifyResult
    from promptbake.runs.run_folder import Run
    from promptbake.runs.session import Session
    from promptbake.stages.chat import Chat
    from promptbake.stages.plan import Plan


@dataclass(frozen=True)
class Help:
    """What the command line says of an option, and the least value that it takes."""

    text: str
    min: float | None = None


Force = Annotated[bool, Help("Replace a finished bake of another profile or model.")]
Strength = Annotated[float, Help("Multiplies the adapter's change of the weights; 0 is no bake.")]


def data(session: Session, force: Force = False) -> Dataset:
    """Sample the prompted model's responses to the queries, and save them without the prompt."""
    from promptbake.runs.generation import load_dataset
    from promptbake.stages import data

    with session.stage_lock("data"):
        data.run(session, force=force)
    return load_dataset(session)


def bake(
    session: Session,
    force: Force = False,
    keep: Annotated[bool, Help("Train no further; the last saved step is the adapter.")] = False,
    *,
    start: Checkpoint | None = None,
    teacher: Checkpoint | None = None,
    batches: Callable[[BatchContext], BatchSource] | None = None,
) -> Checkpoint:
    """Train a LoRA to answer without the prompt as the model does with it.

    From Python it may `start` from an earlier bake, learn from a prompted `teacher` that is itself
    a bake, and take its batches from a source that `batches` makes.

    >>> promptbake.bake("no-such-file.md", profile="mock")
    Traceback (most recent call last):
    promptbake.errors.BakeError: no-such-file.md: cannot be read: No such file or directory
    """
    from promptbake.runs.bake_record import BakeOptions
    from promptbake.stages import bake

    with session.stage_lock("bake"):
        bake.run(session, BakeOptions(start, teacher, batches, force, keep))
        return session.checkpoint


def verify(
    session: Session,
    force: Annotated[bool, Help("Measure again what was measured before.")] = False,
    controls: Annotated[bool, Help("Run every control that must fail, not one alone.")] = False,
) -> VerifyResult:
    """Measure the four arms on held-out queries, and judge the bake by its margins.

    The command exits 1 below the threshold, and where the verdict is `failed`. What was measured
    before, by this command or while the adapter was trained, is not measured again where nothing
    that it depends on has changed.
    """
    from promptbake.stages import verify

    with session.stage_lock("verify"):
        return verify.run(session, anew=force, controls=controls)


def report(session: Session) -> Path:
    """Write report.html, verify.junit.xml and the model card again, from what was measured.

    With `report.show_prompt=false` the prompt's text is taken out of all of the run's files;
    `verify` puts it back.
    """
    from promptbake.report import outputs

    session.refuse_address("report")
    with session.run.locked():
        if not session.config.report.show_prompt:
            outputs.hide_prompt(session.run)
        outputs.write(session.run)
    return session.run.report


def recheck(run: str | Path, reporter: Reporter, *, models: bool = False) -> Recheck:
    """Recompute every number of a run's verify.json from its folder, and name each that differs.

    With `models`, the models are measured again as well, as by `verify --force`; what that gives is
    compared and not written, but for what a service is paid.
    """
    from promptbake.report import recheck as files
    from promptbake.runs.run_folder import Run

    found = files.recheck(run)
    if not models:
        return found
    try:
        return found.joined(_measure_again(Run(Path(run)), reporter))
    except BakeError as error:
        if found.passed:
            raise
        return found.without_models(str(error))


def _measure_again(run: Run, reporter: Reporter) -> Recheck:
    """verify.json beside what the models give now; measured into a folder that is deleted."""
    from promptbake.report import recheck as files
    from promptbake.runs.reopen import reopen
    from promptbake.runs.scoring import open_measurements
    from promptbake.stages import verify

    evidence = files.load_evidence(run)
    targets = [each.as_target() for each in evidence.targets]
    prompt = evidence.prompt.as_prompt()
    session = reopen(run, prompt, targets, evidence.config, reporter)
    with session.stage_lock("recheck"), TemporaryDirectory() as temporary:
        folder, every = Path(temporary), len(evidence.controls) > 1
        store = open_measurements(session, folder / run.measurements.name, anew=True)
        caches = folder / run.evaluators.name
        measured = verify.measure(session, store, caches, anew=True, controls=every)
    return files.compare_measured(run, *measured)


def plan(session: Session) -> Plan:
    """Estimate tokens, dollars and minutes before anything is sent, beside the usage so far.

    >>> promptbake.plan(pirate, **job).dollars
    0.0
    """
    from promptbake.stages import plan

    return plan.make(session)


def export(
    session: Session,
    to: Annotated[Path, Help("Output folder; must not exist.")],
    strength: Strength = 1.0,
) -> Path:
    """Export the adapter in PEFT's format, wherever it was trained.

    >>> sorted(file.name for file in promptbake.export(pirate, "adapter", **job).glob("adapter*"))
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    from promptbake.stages import export

    export.write(session, Path(to), strength)
    return Path(to)


def chat(
    session: Session,
    arm: Annotated[Arm, Help("Which model replies.")] = "baked",
    max_tokens: Annotated[int, Help("Maximum tokens per reply.", min=1)] = 256,
    temperature: Annotated[float, Help("0 is greedy.", min=0.0)] = 0.7,
    strength: Strength = 1.0,
) -> Chat:
    """Talk to the baked model, with no system prompt; /help in the chat lists its commands.

    PROMPT may also be a run's folder, such as runs/yoda, or the address of a checkpoint, such as
    tinker://.../sampler_weights/...

    >>> talk = promptbake.chat(pirate, max_tokens=8, **job)
    >>> 0 < len("".join(talk.say("How are you?"))) <= 8
    True
    >>> talk.stop_reason
    'length'
    """
    from promptbake.stages.chat import Chat

    return Chat(session, arm, max_tokens, temperature, strength)


COMMANDS: tuple[Callable[..., Any], ...] = (data, bake, verify, report, plan, export, chat)
