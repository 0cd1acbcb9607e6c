"""The command line: the commands of a run, and those that need none."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from promptbake.cli import console
from promptbake.cli.console import out
from promptbake.cli.run_commands import (
    ConfigFile,
    Profile,
    Settings,
    add_run_command,
    all_settings,
)
from promptbake.commands import COMMANDS
from promptbake.errors import BakeError, nearest
from promptbake.plugins.hookspecs import HOOKS, find_kind
from promptbake.plugins.registry import load
from promptbake.progress.terminal import PlainConsole, RichReporter
from promptbake.redaction import redact
from promptbake.runs.config import flatten
from promptbake.runs.session import read_prompt
from promptbake.version import __version__

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST} | {
    errno.ENAMETOOLONG
}
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class PluginGroup(typer.core.TyperGroup):
    """The built-in commands, then those of plugins, which are loaded only where they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names: the built-in ones first."""
        return [*super().list_commands(ctx), *sorted(_plugin_commands())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A built-in command, or a plugin's."""
        command = super().get_command(ctx, cmd_name)
        return command or _plugin_commands().get(cmd_name)


app = typer.Typer(
    name="promptbake",
    help="Bake a system prompt into a language model's weights, and measure how closely it worked.",
    cls=PluginGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for _command in COMMANDS:
    add_run_command(app, _command)


@app.command()
def runs(
    folder: Annotated[str, typer.Argument(metavar="[FOLDER]", help="Where the runs are.")] = "runs",
    as_json: Json = False,
) -> None:
    """List the runs of a folder, the latest first: how far each came, and its gap closed."""
    from promptbake.cli.run_tables import print_runs
    from promptbake.report.run_list import list_runs

    found = list_runs(folder)
    if as_json:
        console.print_json({"folder": folder, "runs": [each.as_json() for each in found]})
    else:
        print_runs(folder, found)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN ...", help="The runs' folders.")],
    as_json: Json = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page of it, too.")
    ] = None,
) -> None:
    """Compare runs that `verify` has measured: their numbers, and the settings that differ."""
    from promptbake.cli.run_tables import print_comparison
    from promptbake.report import comparison, comparison_page

    compared = comparison.compare(*runs)
    if html is not None:
        comparison_page.write(compared, html)
    if as_json:
        console.print_json(compared.as_json())
        return
    print_comparison(compared)
    if html is not None:
        out.print(str(html), soft_wrap=True)


@app.command()
def recheck(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder.")],
    models: Annotated[
        bool, typer.Option("--models", help="Measure the models again, too; nothing is written.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Recompute all that a verified run says from its folder; exit 1 and name what differs."""
    from promptbake import commands
    from promptbake.cli.run_tables import print_recheck

    found = commands.recheck(run, RichReporter(), models=models)
    if as_json:
        console.print_json(found.as_json())
    else:
        print_recheck(found)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def plugins(
    kind: Annotated[str | None, typer.Option(help="One kind only.")] = None,
    as_json: Json = False,
) -> None:
    """List what every plugin offers, and what did not load and why."""
    kind = find_kind(kind) if kind is not None else None
    if kind is not None and kind not in HOOKS:
        raise BakeError(
            f"--kind {kind}: unknown kind; choose from: {', '.join(HOOKS)}{nearest(kind, HOOKS)}"
        )
    registry = load()
    factories = [factory for factory in registry.factories if kind in (None, factory.kind)]
    if as_json:
        console.print_json(
            {
                "factories": [
                    {
                        "kind": factory.kind,
                        "name": factory.name,
                        "plugin": factory.plugin,
                        "version": factory.version,
                        "options": [option.as_json() for option in factory.options],
                    }
                    for factory in factories
                ],
                "load_failures": [vars(failure) for failure in registry.load_failures],
            }
        )
        return
    console.print_plugins(registry, factories)


@app.command()
def doctor(
    profile: Annotated[
        str | None, typer.Option(help="Exit 1 if anything is missing for this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show versions, devices, keys (never their values), plugins, what is missing per profile."""
    from promptbake.cli.doctor import examine
    from promptbake.runs.layers import resolve

    if profile is not None:
        resolve(profile)  # refuses an unknown one
    health = examine()
    if as_json:
        console.print_json(health.as_json())
    else:
        console.print_health(health)
    if profile is not None and health.profiles[profile]:
        raise typer.Exit(1)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as skew-kl.")],
    kind: Annotated[
        str,
        typer.Option(help="loss, teacher, data-provider, backend, evaluator, tracker, command."),
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
    describe: Annotated[
        bool, typer.Option("--describe", help="Print each key's type, default and meaning.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a prompt's TOML file.")
    ] = False,
) -> None:
    """Print the resolved config, and where each value came from."""
    from promptbake.runs.layers import resolve

    if describe:
        from promptbake.runs.describe import describe as describe_settings

        console.print_settings(describe_settings(load().factories), as_json)
        return
    if schema:
        from promptbake.cli.prompts import schema_text

        print(schema_text(), end="")  # noqa: T201 - for a file
        return
    if prompt:
        read_prompt(prompt)
    sidecar = prompt.with_suffix(".toml") if prompt else None
    resolved = resolve(profile, sidecar, config, all_settings(settings))
    values = dict(flatten(resolved.config.model_dump(mode="json")))
    if as_json:
        console.print_json(
            {key: {"value": values[key], "source": resolved.sources[key]} for key in values}
        )
        return
    console.print_config(values, resolved.sources)


@app.command()
def init(
    to: Annotated[Path, typer.Option(help="The folder to write it into.")] = Path(),
) -> None:
    """Write prompts/, the prompts that promptbake comes with, ready to bake."""
    from promptbake.cli.prompts import write_prompts

    folder = write_prompts(to)
    out.print(
        f"{folder}: prompts to bake. Next:\n  promptbake data {folder / 'yoda.md'}", soft_wrap=True
    )


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(f"promptbake {__version__}")
        raise typer.Exit


def _plugin_commands() -> dict[str, Any]:
    """The commands of plugins, but for names that are taken."""
    built_in = {
        command.callback.__name__ for command in app.registered_commands if command.callback
    }
    commands: dict[str, Any] = {}
    registry = load()
    conflicts = {each[0].name for each in registry.conflicts if each[0].kind == "commands"}
    for factory in registry.of("commands"):
        if factory.name.replace("-", "_") in built_in or factory.name in conflicts:
            continue
        own = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        add_run_command(own, factory.function, factory.name, factory.origin)
        commands[factory.name] = typer.main.get_command(own)
    return commands


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: exit 2 with one line for errors that the user can fix.

    Variables of a file `.env` in the working folder are set first, where they are not set already.
    """
    try:
        _read_env_file(Path(".env"))
        app(arguments, prog_name="promptbake")
    except BakeError as error:
        _fail(str(error))
    except OSError as error:
        by_plugin = hasattr(error, "__notes__")
        not_writable = error.errno in NOT_WRITABLE and not by_plugin
        if error.errno not in DISK_FULL and not not_writable:
            raise
        line = f"{error.filename or 'the run folder'}: cannot be written: {error.strerror}"
        if error.errno in DISK_FULL:
            line += "; free some space and run the same command to resume"
        _fail(line)


def _read_env_file(file: Path) -> None:
    if not file.is_file():
        return
    from dotenv import dotenv_values

    try:
        values = dotenv_values(file)
        os.environ |= {key: value for key, value in values.items() if value} | os.environ
    except (OSError, ValueError) as error:
        raise BakeError(f"{file}: cannot be read: {error}") from None


def _fail(line: str) -> None:
    line = " ".join(redact(line).splitlines())
    PlainConsole(stderr=True).print(f"promptbake: {line}", soft_wrap=True, style="red")
    raise SystemExit(2)
