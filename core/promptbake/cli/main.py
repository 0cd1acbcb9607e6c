"""The command line: parse, wire, print."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from promptbake.cli import console as tables
from promptbake.errors import BakeError
from promptbake.plugins.hookspecs import HOOKS
from promptbake.plugins.registry import load
from promptbake.progress import RichReporter
from promptbake.runs.config import flatten
from promptbake.runs.session import Session, open_session, read_prompt
from promptbake.version import __version__

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}

app = typer.Typer(
    name="promptbake",
    help="Bake a system prompt into a language model's weights, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, markup=False, emoji=False)  # what it prints is not ours

PromptFile = Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt's file.")]
Profile = Annotated[str, typer.Option(help="A set of defaults: local, mock, ...")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
]
RunFolder = Annotated[
    Path | None, typer.Option("--run", help="The run's folder.", show_default="runs/<prompt name>")
]
SHARED = (
    ("prompt", PromptFile, inspect.Parameter.empty),
    ("profile", Profile, "local"),
    ("config", ConfigFile, None),
    ("settings", Settings, None),
    ("run", RunFolder, None),
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class ArmName(StrEnum):
    """Who answers in a chat."""

    BASE = "base"
    PROMPTED = "prompted"
    BAKED = "baked"


def stage(command: Callable[..., None]) -> Callable[..., None]:
    """Add a command that works on a run: what names the run comes first, then its own options.

    The command's first parameter is the Session that those name.
    """

    @functools.wraps(command)
    def wired(
        prompt: str,
        profile: str,
        config: Path | None,
        settings: list[str] | None,
        run: Path | None,
        **own: Any,
    ) -> None:
        session = open_session(
            prompt,
            profile=profile,
            config_file=config,
            settings=settings or (),
            run=run,
            reporter=RichReporter(),
        )
        try:
            with session.attributed():
                command(session, **own)
        except KeyboardInterrupt:
            session.reporter.say("stopped; the same command goes on from here")
            raise typer.Exit(130) from None

    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in SHARED
    ]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    wired.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    wired.__annotations__ = {each.name: each.annotation for each in [*shared, *own]}
    return app.command()(wired)


@stage
def data(session: Session) -> None:
    """Let the prompted model answer the queries, and save the answers without the prompt."""
    from promptbake.stages import data

    with session.stage_lock("data"):
        data.run(session)
    results = session.run.stage("data")
    out.print(
        f"{session.run.data}: {results['conversations']} conversations to train on, "
        f"{results['held_out']} held out",
        soft_wrap=True,
    )
    tables.print_spent(session.budget, out)


@stage
def bake(session: Session) -> None:
    """Train a LoRA to answer without the prompt as the model does with it."""
    from promptbake.stages import bake

    with session.stage_lock("bake"):
        bake.run(session)
    steps = session.run.stage("bake")["steps"]
    out.print(f"{session.run.adapter}: baked in {steps} steps", soft_wrap=True)
    tables.print_spent(session.budget, out)


@stage
def verify(session: Session, as_json: Json = False) -> None:
    """Measure the four arms on held-out queries; exit 1 where the result misses its bar."""
    from promptbake.stages import verify

    with session.stage_lock("verify"):
        result = verify.run(session)
    if as_json:
        _print_json(result)
    else:
        tables.print_proof(session.run, result, out)
        tables.print_spent(session.budget, out)
    if not result["passed"]:
        raise typer.Exit(1)


@stage
def report(session: Session) -> None:
    """Write report.html again from verify.json and the metrics."""
    from promptbake.report import page as report

    session.refuse_address("report")
    report.write(session.run)
    out.print(str(session.run.report), soft_wrap=True)


@stage
def plan(session: Session, as_json: Json = False) -> None:
    """Say what the job will take before anything is sent, and what it has come to so far."""
    from promptbake.stages import plan

    made = plan.make(session)
    if as_json:
        _print_json(made.as_json())
    else:
        tables.print_plan(made, out)


@stage
def export(
    session: Session,
    to: Annotated[Path, typer.Option(help="The folder to write, which must not be there.")],
) -> None:
    """Bring the adapter home: a PEFT adapter in a folder, wherever it was trained."""
    from promptbake.stages import export

    export.write(session, to)
    out.print(f"{to}: a PEFT adapter for {session.base.name}", soft_wrap=True)


@stage
def chat(
    session: Session,
    message: Annotated[str | None, typer.Option(help="Ask this, print the answer, end.")] = None,
    arm: Annotated[ArmName, typer.Option(help="Who answers.")] = ArmName.BAKED,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.7,
) -> None:
    """Talk to the baked model, with no system prompt.

    PROMPT may also be the address of a checkpoint, such as tinker://.../sampler_weights/...
    """
    from promptbake.stages.chat import Chat

    talk = Chat(session, arm.value, max_tokens, temperature)
    if message is not None:
        _stream(talk.say(message))
        return
    while True:
        try:
            text = out.input("you: " if sys.stdin.isatty() else "")
            if text.strip():
                _stream(talk.say(text))
        except (EOFError, KeyboardInterrupt):
            out.print()
            return


@app.command()
def plugins(
    kind: Annotated[str | None, typer.Option(help="One kind only.")] = None,
    as_json: Json = False,
) -> None:
    """List what every plugin offers, and what did not load and why."""
    if kind is not None and kind not in HOOKS:
        raise BakeError(f"--kind {kind}: there is no such kind; there is: {', '.join(HOOKS)}")
    registry = load()
    offers = [offer for offer in registry.offers if kind in (None, offer.kind)]
    if as_json:
        _print_json(
            {
                "offers": [
                    {
                        "kind": offer.kind,
                        "name": offer.name,
                        "plugin": offer.plugin,
                        "version": offer.version,
                        "options": [vars(option) for option in offer.options],
                    }
                    for offer in offers
                ],
                "set_aside": [vars(aside) for aside in registry.set_aside],
            }
        )
        return
    tables.print_plugins(registry, offers, out)


@app.command()
def doctor(
    profile: Annotated[str | None, typer.Option(help="Exit 1 if this one lacks anything.")] = None,
    as_json: Json = False,
) -> None:
    """Show versions, devices, keys (never their values), plugins, and what a profile lacks."""
    from promptbake.cli.doctor import examine
    from promptbake.runs.config import resolve

    if profile is not None:
        resolve(profile)  # refuses one that there is not
    health = examine()
    if as_json:
        _print_json(health.as_json())
    else:
        tables.print_health(health, out)
    if profile is not None and health.profiles[profile]:
        raise typer.Exit(1)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as skew-kl.")],
    kind: Annotated[
        str,
        typer.Option(help="loss, teacher, data-provider, backend, evaluator or tracker."),
    ],
    to: Annotated[Path, typer.Option(help="The folder to write it into.")] = Path(),
) -> None:
    """Write promptbake-NAME, a repository for a plugin of your own, with a module and its tests.

    Its tests pass as soon as it is installed; change it a piece at a time while they do.
    """
    from promptbake.cli import scaffold

    folder = scaffold.new_plugin(name, kind, to)
    out.print(
        f"{folder}: a plugin that works. Next:\n  cd {folder}\n  pip install -e '.[dev]'\n  pytest",
        soft_wrap=True,
    )


@app.command()
def config(
    prompt: Annotated[Path | None, typer.Argument(metavar="[PROMPT]")] = None,
    profile: Profile = "local",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Print the resolved config, and where each value came from."""
    from promptbake.runs.config import resolve

    if prompt:
        read_prompt(prompt)
    sidecar = prompt.with_suffix(".toml") if prompt else None
    resolved = resolve(profile, sidecar, config, settings or ())
    values = dict(flatten(resolved.config.model_dump(mode="json")))
    if as_json:
        _print_json(
            {key: {"value": values[key], "source": resolved.sources[key]} for key in values}
        )
        return
    tables.print_config(values, resolved.sources, out)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"promptbake {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit 2 with one line for what the user can mend."""
    try:
        app(arguments)
    except BakeError as error:
        _fail(str(error))
    except OSError as error:
        no_place = error.errno in NO_PLACE and not hasattr(error, "__notes__")  # of a plugin's own
        if error.errno not in DISK_FULL and not no_place:
            raise
        line = f"{error.filename or 'the run folder'}: cannot be written: {error.strerror}"
        if error.errno in DISK_FULL:
            line += "; make room and run the same command again, it goes on from here"
        _fail(line)


def _fail(line: str) -> None:
    Console(stderr=True, highlight=False, markup=False, emoji=False).print(
        f"promptbake: {' '.join(line.splitlines())}", soft_wrap=True, style="red"
    )
    raise SystemExit(2)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))  # noqa: T201 - no colours, ever


def _stream(pieces: Iterator[str]) -> None:
    for piece in pieces:
        out.out(piece, end="", highlight=False)
        out.file.flush()
    out.print()
