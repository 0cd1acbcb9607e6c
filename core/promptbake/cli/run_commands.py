"""Commands that work on a run, as typer commands: wired from their signatures."""

from __future__ import annotations

import functools
import inspect
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from promptbake.cli import console
from promptbake.cli.conversation import talk
from promptbake.commands import COMMANDS, Help
from promptbake.plugins.attribution import attribute
from promptbake.progress.terminal import RichReporter
from promptbake.runs.session import Session, open_session

PromptFile = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT", help="The prompt's file, or its run's folder for chat, export and report."
    ),
]
Profile = Annotated[str, typer.Option(help="A set of defaults: local, mock, ...")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value; may be repeated. Also from PROMPTBAKE_SET."),
]
RunFolder = Annotated[
    str | None,
    typer.Option(
        "--run", metavar="FOLDER", help="The run's folder.", show_default="runs/<prompt name>"
    ),
]
RUN_OPTIONS = (
    ("prompt", PromptFile, inspect.Parameter.empty),
    ("profile", Profile, "local"),
    ("config", ConfigFile, None),
    ("settings", Settings, None),
    ("run", RunFolder, None),
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Message = Annotated[str | None, typer.Option(help="Send one message, print the reply, exit.")]
OUTPUT_OPTIONS = {  # of how a result is shown; the others' results have one form
    "verify": ("as_json", Json, False),
    "plan": ("as_json", Json, False),
    "chat": ("message", Message, None),
}


STOPPED = "stopped; run the same command to resume"
KEEP = ", or with --keep to keep the adapter as it is after the last saved step"
# The items of PROMPTBAKE_SET: blanks part them, but not within quotes or brackets.
SETTING = re.compile(r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|\{[^}]*\}|\S)+""")


def all_settings(given: Sequence[str] | None) -> list[str]:
    """Those of the environment, which `make` passes, then those of the command line."""
    return [*SETTING.findall(os.environ.get("PROMPTBAKE_SET", "")), *(given or ())]


def add_run_command(
    app: typer.Typer, command: Callable[..., Any], name: str | None = None, origin: str = ""
) -> None:
    """Add a command to the app: of a run where its first parameter is a Session, else as it is.

    Args:
        app: The command line.
        command: A function of `promptbake.commands`, or of a plugin.
        name: What the command is called; its function's name where it is None.
        origin: The plugin that it is from, for errors that it raises.
    """
    parameters = _parameters(command)
    of_run = bool(parameters) and parameters[0].annotation is Session
    own = parameters[1:] if of_run else parameters
    shown = OUTPUT_OPTIONS.get(command.__name__) if command in COMMANDS else None

    @functools.wraps(command)
    def wired(**given: Any) -> None:
        output = {shown[0]: given.pop(shown[0])} if shown else {}
        own_values = {each.name: _plain(given.pop(each.name)) for each in own}
        with attribute(origin) if origin else nullcontext():
            if not of_run:
                command(**own_values)
                return
            with _session(command.__name__, **given) as session:
                result = command(session, **own_values)
                if not origin:
                    _show(command.__name__, session, result, **output)

    extra = [*(RUN_OPTIONS if of_run else ()), *((shown,) if shown else ())]
    options = [_parameter(*each) for each in extra]
    signature = inspect.Signature(
        [*options[: len(RUN_OPTIONS)], *own, *options[len(RUN_OPTIONS) :]]
    )
    wired.__signature__ = signature  # type: ignore[attr-defined]
    wired.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    wired.__doc__ = (command.__doc__ or "").partition("\n    >>>")[0]
    app.command(name)(wired)


@contextmanager
def _session(
    command: str,
    *,
    prompt: str,
    profile: str,
    config: Path | None,
    settings: list[str] | None,
    run: str | None,
) -> Iterator[Session]:
    """Open a session; Ctrl-C says how to resume."""
    session = open_session(
        prompt,
        profile=profile,
        config_file=config,
        settings=all_settings(settings),
        run=run,
        reporter=RichReporter(),
        command=_typed(command, prompt, profile, config, all_settings(settings), run),
    )
    try:
        yield session
    except KeyboardInterrupt as stop:
        session.note_failure(stop)
        session.reporter.say(STOPPED + (KEEP if command == "bake" else ""))
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except Exception as error:
        session.note_failure(error)
        raise


def _typed(
    command: str,
    prompt: str,
    profile: str,
    config: Path | None,
    settings: Sequence[str],
    run: str | None,
) -> str:
    """The command with all that it was given, also by the environment."""
    words = ["promptbake", command, prompt, "--profile", profile]
    words += ["--config", str(config)] if config is not None else []
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--run", run] if run is not None else []
    return shlex.join(words)


def _show(
    name: str,
    session: Session,
    result: Any,
    as_json: bool = False,
    message: str | None = None,
) -> None:
    """Print a command's result; exit 1 where it is below the threshold, or failed."""
    if as_json:
        console.print_json(result.as_json())
    elif name == "chat":
        talk(result, message)
    else:
        console.SHOW[name](session, result)
    if name == "verify" and not result.passed:
        raise typer.Exit(1)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _parameters(command: Callable[..., Any]) -> list[inspect.Parameter]:
    """A command's own parameters with typer's annotations; keywords of ours are for Python only."""
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if command not in COMMANDS or parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    annotations = {each.name: command.__annotations__[each.name] for each in parameters}
    shim = SimpleNamespace(__annotations__=annotations, __globals__=command.__globals__)
    # `Session` may be imported for the type checker only.
    hints = get_type_hints(shim, localns={"Session": Session}, include_extras=True)
    return [each.replace(annotation=_annotation(hints[each.name])) for each in parameters]


def _annotation(hint: Any) -> Any:
    """Typer's annotation of an option: its Help, and an enumeration for a Literal."""
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(kind) is Literal:
        kind = StrEnum("Choice", list(get_args(kind)))  # type: ignore[misc, no-redef]
    options = [
        typer.Option(help=each.text, min=each.min) if isinstance(each, Help) else each
        for each in notes
    ]
    return Annotated[kind, *options] if options else kind


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value
