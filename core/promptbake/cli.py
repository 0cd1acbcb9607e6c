"""The command line: parse, wire, print."""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from promptbake import __version__
from promptbake.config import flatten
from promptbake.errors import BakeError
from promptbake.hookspecs import HOOKS
from promptbake.plugins import load
from promptbake.progress import RichReporter
from promptbake.session import Session, open_session, read_prompt

if TYPE_CHECKING:
    from promptbake.plan import Plan

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
    from promptbake import data

    with session.at_work("data"):
        data.run(session)
    results = session.run.stage("data")
    out.print(
        f"{session.run.data}: {results['conversations']} conversations to train on, "
        f"{results['held_out']} held out",
        soft_wrap=True,
    )
    _print_spent(session)


@stage
def bake(session: Session) -> None:
    """Train a LoRA to answer without the prompt as the model does with it."""
    from promptbake import bake

    with session.at_work("bake"):
        bake.run(session)
    steps = session.run.stage("bake")["steps"]
    out.print(f"{session.run.adapter}: baked in {steps} steps", soft_wrap=True)
    _print_spent(session)


@stage
def verify(session: Session, as_json: Json = False) -> None:
    """Measure the four arms on held-out queries; exit 1 where the result misses its bar."""
    from promptbake import verify

    with session.at_work("verify"):
        result = verify.run(session)
    if as_json:
        _print_json(result)
    else:
        _print_proof(session, result)
        _print_spent(session)
    if not result["passed"]:
        raise typer.Exit(1)


@stage
def report(session: Session) -> None:
    """Write report.html again from verify.json and the metrics."""
    from promptbake import report

    report.write(session.run)
    out.print(str(session.run.report), soft_wrap=True)


@stage
def plan(session: Session, as_json: Json = False) -> None:
    """Say what the job will take before anything is sent, and what it has come to so far."""
    from promptbake import plan

    made = plan.make(session)
    if as_json:
        _print_json(made.as_json())
    else:
        _print_plan(made)


@stage
def export(
    session: Session,
    to: Annotated[Path, typer.Option(help="The folder to write, which must not be there.")],
) -> None:
    """Bring the adapter home: a PEFT adapter in a folder, wherever it was trained."""
    from promptbake import export

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
    from promptbake.chat import Chat

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
    table = Table("kind", "name", "plugin", "version", "options", box=None, pad_edge=False)
    for offer in sorted(offers, key=lambda offer: (list(HOOKS).index(offer.kind), offer.name)):
        options = ", ".join(
            f"{option.name}: {option.type}"
            + (", required" if option.required else f" = {option.default}")
            for option in offer.options
        )
        table.add_row(offer.kind, offer.name, offer.plugin, offer.version, options)
    out.print(table)
    for aside in registry.set_aside:
        out.print(f"did not load: {aside.plugin} {aside.version}: {aside.reason}", markup=False)


@app.command()
def config(
    prompt: Annotated[Path | None, typer.Argument(metavar="[PROMPT]")] = None,
    profile: Profile = "local",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Print the resolved config, and where each value came from."""
    from promptbake.config import resolve

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
    table = Table("key", "value", "source", box=None, pad_edge=False)
    for key, value in values.items():
        table.add_row(key, json.dumps(value), resolved.sources[key])
    out.print(table)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"promptbake {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit 2 with one line for what the user can mend."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads fight over few cores
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(arguments)
    except BakeError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in DISK_FULL | NO_PLACE:
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
    out.print_json(json.dumps(value, ensure_ascii=False))


def _print_proof(session: Session, result: dict[str, Any]) -> None:
    kl = result["kl"]
    low, high = kl["gap_closed_ci95"]
    table = Table("arm", f"KL from the prompted model ({kl['unit']})", box=None, pad_edge=False)
    for arm in ("base", "baked", "reprompted"):
        table.add_row(arm, f"{kl[arm]:.4f}")
    out.print(table)
    verdict = "passed" if result["passed"] else "FAILED"
    bar = result["bars"]["kl.gap_closed"]["min"]
    out.print(
        f"gap closed on {result['held_out']['queries']} held-out queries: "
        f"{kl['gap_closed']:.3f} (95 % interval {low:.3f} to {high:.3f}); "
        f"bar {bar:g}: {verdict}",
        soft_wrap=True,
    )
    out.print(str(session.run.report), soft_wrap=True)


def _print_plan(plan: Plan) -> None:
    amounts = {"calls": "calls", "prefill": "prefill", "cached_prefill": "cached"}
    amounts |= {"sampled": "sampled", "trained": "trained"}
    table = Table("work", *amounts.values(), "dollars", "minutes", box=None, pad_edge=False)
    for row in plan.rows:
        usage, spent = row.quote.usage, row.spent
        dollars = f"{usage.dollars:.4f}" if row.quote.priced else "?"
        predicted = [f"{getattr(usage, name):,}" for name in amounts]
        table.add_row(row.key, *predicted, dollars, _minutes(row.quote.seconds))
        if spent:
            actual = [f"{getattr(spent, name):,}" for name in amounts]
            table.add_row("  so far", *actual, f"{spent.dollars:.4f}", "", style="dim")
    out.print(table)
    dollars = "an unknown price" if plan.dollars is None else f"${plan.dollars:.4f}"
    out.print(f"in all: {dollars}, {_minutes(plan.seconds)} minutes; {plan.basis}", soft_wrap=True)
    if plan.spent:
        out.print(f"spent so far: ${plan.spent:.4f}", soft_wrap=True)
    if plan.max_dollars is not None:
        out.print(f"budget.max_dollars: ${plan.max_dollars:.4f}", soft_wrap=True)
    for source in plan.sources:
        out.print(f"prices: {source}", soft_wrap=True)


def _print_spent(session: Session) -> None:
    if session.budget.dollars:
        spent = ", ".join(
            f"{what} ${usage.dollars:.4f}" for what, usage in session.budget.by_work().items()
        )
        out.print(f"spent so far: ${session.budget.dollars:.4f} ({spent})", soft_wrap=True)


def _minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 60:.1f}"


def _stream(pieces: Iterator[str]) -> None:
    for piece in pieces:
        out.out(piece, end="", highlight=False)
        out.file.flush()
    out.print()
