"""The registry: loads what is installed, chooses a factory by name, lists what failed to load."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from promptbake.documents.text import shown
from promptbake.errors import BakeError, nearest
from promptbake.plugins import hookspecs
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.hookspecs import (
    API_VERSION,
    HOOKS,
    SINGULAR,
    WITHOUT_OPTIONS,
)

GROUP = "promptbake"
DISABLE = "PROMPTBAKE_DISABLE_PLUGINS"
MIGRATION = "'Moving to API 2' in plugins/README.md lists what to change"


@dataclass(frozen=True)
class PluginChoice:
    """The plugin that a setting names."""

    kind: str  # as in HOOKS
    name: str
    key: str  # the setting, for a message


@dataclass(frozen=True)
class LoadFailure:
    """A plugin that did not load, and why."""

    plugin: str
    version: str
    reason: str


@dataclass(frozen=True)
class Registry:
    """The factories of all installed plugins."""

    factories: tuple[PluginFactory, ...]
    load_failures: tuple[LoadFailure, ...] = ()

    @property
    def conflicts(self) -> tuple[tuple[PluginFactory, ...], ...]:
        """The factories of each name that more than one plugin offers."""
        by_name: dict[tuple[str, str], list[PluginFactory]] = {}
        for factory in self.factories:
            by_name.setdefault((factory.kind, factory.name), []).append(factory)
        return tuple(tuple(same) for same in by_name.values() if len(same) > 1)

    def conflict_lines(self) -> tuple[str, ...]:
        """A line for each name that more than one plugin offers."""
        return tuple(
            f"{conflict[0].kind} {conflict[0].name!r} is offered by "
            + " and ".join(factory.plugin for factory in conflict)
            for conflict in self.conflicts
        )

    def of(self, kind: str) -> tuple[PluginFactory, ...]:
        """The factories of one kind."""
        return tuple(factory for factory in self.factories if factory.kind == kind)

    def choose(self, choice: PluginChoice) -> PluginFactory:
        """The factory that a setting names.

        Raises:
            BakeError: The name is unknown (with the available ones, the nearest one and what did
                not load), or two plugins offer it.
        """
        kind, name, key = choice.kind, choice.name, choice.key
        matching = [factory for factory in self.of(kind) if factory.name == name]
        if len(matching) == 1:
            return matching[0]
        if matching:
            plugins = " and ".join(factory.plugin for factory in matching)
            raise BakeError(
                f"{key} = {name!r}: the plugins {plugins} both offer it; leave one out, as with "
                f"{DISABLE}={matching[-1].plugin}"
            )
        names = sorted({factory.name for factory in self.of(kind)})
        message = (
            f"{shown(key)}: unknown {SINGULAR[kind]} {shown(repr(name))}; available: "
            f"{', '.join(names) or 'none'}"
            f"{nearest(name, names)}"
        )
        if self.load_failures:
            failures = (f"{failure.plugin} ({failure.reason})" for failure in self.load_failures)
            message += f". Did not load: {'; '.join(failures)}"
        raise BakeError(message)


def load(points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every installed plugin except those that PROMPTBAKE_DISABLE_PLUGINS names.

    A plugin that fails is listed with its reason; the others work.
    """
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    factories: list[PluginFactory] = []
    failures: list[LoadFailure] = []
    found = sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: p.name)
    names = [point.name for point in found]
    if unknown := sorted(disabled - set(names)):
        raise BakeError(
            f"{DISABLE}: no plugin is called {shown(unknown[0])}; installed: "
            f"{', '.join(names)}{nearest(unknown[0], names)}"
        )
    for point in found:
        version = point.dist.version if point.dist else "?"
        if point.name in disabled:
            failures.append(LoadFailure(point.name, version, f"left out by {DISABLE}"))
            continue
        try:
            with redirect_stdout(sys.stderr):  # what it prints is no answer to --json
                factories += _factories(point, version, point.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a third-party module may raise anything
            failures.append(LoadFailure(point.name, version, _reason(error)))
    return Registry(tuple(factories), tuple(failures))


class _InvalidPluginError(Exception):
    """What is wrong with a plugin, in words."""


def _factories(point: EntryPoint, version: str, module: object) -> list[PluginFactory]:
    _check_api(module)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, point.name)
    try:
        manager.check_pending()  # an unknown hook is a typing mistake
    except pluggy.PluginValidationError as error:
        raise _InvalidPluginError(f"{error}; available: {', '.join(HOOKS.values())}") from None
    factories = []
    for kind, hook in HOOKS.items():
        names: set[str] = set()
        for offered in _offered(hook, getattr(manager.hook, hook)):
            if twice := names & offered.keys():
                raise _InvalidPluginError(f"{hook} offers a name twice: {', '.join(sorted(twice))}")
            names |= offered.keys()
            factories += [
                PluginFactory(kind, name, point.name, version, function, point.module)
                for name, function in offered.items()
            ]
    unmarked = [hook for hook in HOOKS.values() if hasattr(module, hook)]
    if not factories and unmarked:
        raise _InvalidPluginError(f"{unmarked[0]} offers nothing, or is not marked with @hookimpl")
    if not factories:
        raise _InvalidPluginError(f"it implements none of the hooks: {', '.join(HOOKS.values())}")
    for factory in factories:
        _check_options(factory)
    return factories


def _check_options(factory: PluginFactory) -> None:
    with_hyphens = factory.kind in WITHOUT_OPTIONS
    name = factory.name.replace("-", "_") if with_hyphens else factory.name
    if not name.isidentifier():
        raise _InvalidPluginError(
            f"{HOOKS[factory.kind]}: {factory.name!r} is no name such as skew_kl"
        )
    try:
        repr(factory.options)
    except Exception as error:
        raise _InvalidPluginError(
            f"{factory.name!r}: its options cannot be read: {_reason(error)}; annotations are "
            "looked up when it loads, so import what they name outside `if TYPE_CHECKING`"
        ) from error


def _check_api(module: object) -> None:
    declared = getattr(module, "PROMPTBAKE_API", None)
    if declared is None:
        raise _InvalidPluginError(
            "it does not say which API it was written for; put PROMPTBAKE_API = "
            f"{API_VERSION} into its module"
        )
    if type(declared) is not int:
        raise _InvalidPluginError(
            f"PROMPTBAKE_API = {declared!r}: expected a number, {API_VERSION}"
        )
    if declared != API_VERSION:
        advice = f"upgrade the plugin: {MIGRATION}" if declared < API_VERSION else ""
        raise _InvalidPluginError(
            f"it was written for version {declared!r} of the plugin API, and this promptbake has "
            f"version {API_VERSION}; {advice or 'upgrade promptbake'}"
        )


def _offered(hook: str, caller: Any) -> list[Mapping[str, Any]]:
    try:
        answers: list[Any] = caller()  # pluggy leaves out what returned None
    except Exception as error:
        raise _InvalidPluginError(f"{hook} failed: {_reason(error)}") from error
    if caller.get_hookimpls() and not answers:
        answers = [None]
    for offered in answers:
        if not isinstance(offered, Mapping) or not all(
            isinstance(name, str) and callable(function) for name, function in offered.items()
        ):
            raise _InvalidPluginError(
                f"{hook} must return a mapping from name to factory; found {offered!r}"
            )
    return answers


def _reason(error: BaseException) -> str:
    if isinstance(error, _InvalidPluginError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"needs the module {error.name}: pip install {error.name}"
    try:
        text = str(error)
    except Exception:
        text = "(it cannot say what)"
    return f"{type(error).__name__}: {text}".replace("\n", " ")
