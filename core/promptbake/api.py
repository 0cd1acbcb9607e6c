"""The commands from Python, for notebooks and programs: the same stages, the same run folders.

>>> import promptbake
>>> pirate = promptbake.Prompt("pirate", "Answer like a pirate who has lost his map.")
>>> job = {"profile": "mock", "settings": {"train.epochs": 3}, "quiet": True}
>>> dataset = promptbake.data(pirate, **job)
>>> len(dataset.training) > len(dataset.held_out) > 0
True
>>> promptbake.bake(pirate, **job).backend
'mock'
>>> proof = promptbake.verify(pirate, **job)
>>> proof.passed, proof.kl["baked"] < proof.kl["base"]
(True, True)

Each takes `prompt`, a file's path or a `Prompt`, and what a `Job` has. What a user can mend is
raised as a BakeError; a stage that was cut short goes on when it is called again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from promptbake.types import Checkpoint, Dataset, Prompt, VerifyResult

if TYPE_CHECKING:
    from promptbake.runs.session import Session
    from promptbake.stages.chat import Chat, ChatArm
    from promptbake.stages.plan import Plan


class Job(TypedDict, total=False):
    """What the command line takes beside the prompt, as keyword arguments."""

    profile: str  # a set of defaults; 'local' where it is not given
    config: str | Path | None  # a TOML file of settings
    settings: Mapping[str, object] | None  # by dotted key, as for --set
    run: str | Path | None  # the run's folder; runs/<prompt's name> where it is not given
    quiet: bool  # without progress bars and notes


def data(
    prompt: str | Path | Prompt,
    **job: Unpack[Job],
) -> Dataset:
    """Let the prompted model answer the queries, and save the answers without the prompt."""
    from promptbake.stages import data

    session = _open(prompt, job)
    with session.attributed(), session.stage_lock("data"):
        data.run(session)
    return data.load(session)


def bake(
    prompt: str | Path | Prompt,
    **job: Unpack[Job],
) -> Checkpoint:
    """Train a LoRA on the data to answer without the prompt as the model does with it.

    >>> promptbake.bake("no-such-file.md", profile="mock")
    Traceback (most recent call last):
    promptbake.errors.BakeError: no-such-file.md: there is no such file
    """
    from promptbake.stages import bake

    session = _open(prompt, job)
    with session.attributed(), session.stage_lock("bake"):
        bake.run(session)
        return session.checkpoint


def verify(
    prompt: str | Path | Prompt,
    **job: Unpack[Job],
) -> VerifyResult:
    """Measure the four arms on held-out queries; `passed` says whether the gap closed suffices."""
    from promptbake.stages import verify

    session = _open(prompt, job)
    with session.attributed(), session.stage_lock("verify"):
        return verify.proof_of(verify.run(session))


def plan(
    prompt: str | Path | Prompt,
    **job: Unpack[Job],
) -> Plan:
    """Say what the job will take, in tokens, dollars and seconds; sends nothing.

    >>> promptbake.plan(pirate, **job).dollars
    0.0
    """
    from promptbake.stages import plan

    session = _open(prompt, job)
    with session.attributed():
        return plan.make(session)


def chat(
    prompt: str | Path | Prompt,
    *,
    arm: ChatArm = "baked",
    max_tokens: int = 256,
    temperature: float = 0.7,
    **job: Unpack[Job],
) -> Chat:
    """A conversation with the baked model, with no system prompt, which remembers its turns.

    `prompt` may also be the address of a checkpoint. Temperature 0 is greedy.

    >>> talk = promptbake.chat(pirate, max_tokens=8, **job)
    >>> 0 < len("".join(talk.say("How are you?"))) <= 8
    True
    """
    from promptbake.stages.chat import Chat

    session = _open(prompt, job)
    with session.attributed():
        return Chat(session, arm, max_tokens, temperature)


def export(
    prompt: str | Path | Prompt,
    to: str | Path,
    **job: Unpack[Job],
) -> Path:
    """Bring the adapter home: a PEFT adapter in the new folder `to`, wherever it was trained.

    >>> sorted(file.name for file in promptbake.export(pirate, "adapter", **job).glob("adapter*"))
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    from promptbake.stages import export

    session = _open(prompt, job)
    with session.attributed():
        export.write(session, Path(to))
    return Path(to)


def _open(prompt: str | Path | Prompt, job: Job) -> Session:
    from promptbake.progress import RichReporter, SilentReporter
    from promptbake.runs.session import open_session

    if unknown := sorted(job.keys() - Job.__annotations__.keys()):
        raise TypeError(f"there is no {unknown[0]!r} among {', '.join(Job.__annotations__)}")
    config, run = job.get("config"), job.get("run")
    return open_session(
        prompt,
        profile=job.get("profile", "local"),
        config_file=None if config is None else Path(config),
        settings=job.get("settings") or {},
        run=None if run is None else Path(run),
        reporter=SilentReporter() if job.get("quiet") else RichReporter(),
    )
