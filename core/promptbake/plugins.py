"""Plugins: load, set aside what is broken, choose by name, list."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from promptbake import hookspecs
from promptbake.errors import BakeError, nearest
from promptbake.hookspecs import ALL_HOOKS, API_VERSION, HOOKS, PROFILES_HOOK, ProfileText
from promptbake.offers import Offer

GROUP = "promptbake"
DISABLE = "PROMPTBAKE_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginProfile:
    """A profile that a plugin offers."""

    name: str
    plugin: str
    source: ProfileText

    def text(self) -> str:
        """Its TOML. Raises BakeError where it cannot be read."""
        if isinstance(self.source, str):
            return self.source
        try:
            return self.source.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise BakeError(
                f"profile {self.name} (plugin {self.plugin}): cannot be read: {error}"
            ) from None


@dataclass(frozen=True)
class SetAside:
    """A plugin that did not load, and why."""

    plugin: str
    version: str
    reason: str


@dataclass(frozen=True)
class Registry:
    """All that the installed plugins offer."""

    offers: tuple[Offer, ...]
    set_aside: tuple[SetAside, ...] = field(default=())
    profiles: tuple[PluginProfile, ...] = field(default=())

    @property
    def clashes(self) -> tuple[tuple[Offer, ...], ...]:
        """The offers of each name that more than one plugin offers."""
        found: dict[tuple[str, str], list[Offer]] = {}
        for offer in self.offers:
            found.setdefault((offer.kind, offer.name), []).append(offer)
        return tuple(tuple(offers) for offers in found.values() if len(offers) > 1)

    def clash_lines(self) -> tuple[str, ...]:
        """A line for each name that more than one plugin offers."""
        return tuple(
            f"{clash[0].kind} {clash[0].name!r} is offered by "
            + " and ".join(offer.plugin for offer in clash)
            for clash in self.clashes
        )

    def of(self, kind: str) -> tuple[Offer, ...]:
        """The offers of one kind, by name."""
        return tuple(offer for offer in self.offers if offer.kind == kind)

    def choose(self, kind: str, name: str, key: str) -> Offer:
        """The one offer of that name; `key` is the config key that named it.

        Raises BakeError for an unknown name (with the choices, the nearest one and what did not
        load) and for one that two plugins offer.
        """
        found = [offer for offer in self.of(kind) if offer.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            plugins = " and ".join(offer.plugin for offer in found)
            raise BakeError(
                f"{key} = {name!r}: the plugins {plugins} both offer it; leave one out, as with "
                f"{DISABLE}={found[-1].plugin}"
            )
        names = sorted({offer.name for offer in self.of(kind)})
        there = ", ".join(names) or "none"
        message = f"{key}: there is no {name!r} among the {kind}; there is: {there}"
        raise BakeError(message + nearest(name, names) + self.not_loaded())

    def not_loaded(self) -> str:
        """The plugins that did not load, for the end of a message."""
        broken = "; ".join(f"{aside.plugin} ({aside.reason})" for aside in self.set_aside)
        return f". Did not load: {broken}" if broken else ""


def load(found: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every installed plugin except those that PROMPTBAKE_DISABLE_PLUGINS names.

    A plugin that fails is set aside with its reason; the others work.
    """
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    offers: list[Offer] = []
    profiles: list[PluginProfile] = []
    aside: list[SetAside] = []
    points = entry_points(group=GROUP) if found is None else found
    for point in sorted(points, key=lambda point: point.name):
        version = point.dist.version if point.dist else "?"
        if point.name in disabled:
            aside.append(SetAside(point.name, version, f"left out by {DISABLE}"))
            continue
        try:
            with redirect_stdout(sys.stderr):  # what it prints is no answer to --json
                its_offers, its_profiles = _offers(point, version, point.load())
                offers += its_offers
                profiles += its_profiles
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may raise anything
            aside.append(SetAside(point.name, version, _reason(error)))
    return Registry(tuple(offers), tuple(aside), tuple(profiles))


class _UnfitError(Exception):
    """What is wrong with a plugin, in words."""


def _offers(
    point: EntryPoint, version: str, module: object
) -> tuple[list[Offer], list[PluginProfile]]:
    _check_api(module)
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, point.name)
    try:
        manager.check_pending()  # an unknown hook is a typing mistake
    except pluggy.PluginValidationError as error:
        raise _UnfitError(f"{error}; there is: {', '.join(ALL_HOOKS)}") from None
    offers = []
    for kind, hook in HOOKS.items():
        named: set[str] = set()
        for factories in _answers(hook, getattr(manager.hook, hook)):
            if twice := named & factories.keys():
                raise _UnfitError(f"{hook} offers a name twice: {', '.join(sorted(twice))}")
            named |= factories.keys()
            offers += [
                Offer(kind, name, point.name, version, make, point.module)
                for name, make in factories.items()
            ]
    profiles = _profiles(point, manager)
    unmarked = [hook for hook in ALL_HOOKS if hasattr(module, hook)]
    if not offers and not profiles:
        if unmarked:
            raise _UnfitError(f"{unmarked[0]} offers nothing, or is not marked with @hookimpl")
        raise _UnfitError("it implements none of the hooks: " + ", ".join(ALL_HOOKS))
    for offer in offers:
        _check_options(offer)
    return offers, profiles


def _profiles(point: EntryPoint, manager: pluggy.PluginManager) -> list[PluginProfile]:
    profiles: dict[str, PluginProfile] = {}
    for offered in _results(PROFILES_HOOK, getattr(manager.hook, PROFILES_HOOK)):
        if not isinstance(offered, Mapping) or not all(
            isinstance(name, str) and (isinstance(source, str) or hasattr(source, "read_text"))
            for name, source in offered.items()
        ):
            raise _UnfitError(
                f"{PROFILES_HOOK} must return a mapping from name to TOML text, or to a file; "
                f"found {offered!r}"
            )
        if twice := profiles.keys() & offered.keys():
            raise _UnfitError(f"{PROFILES_HOOK} offers a name twice: {', '.join(sorted(twice))}")
        profiles |= {
            name: PluginProfile(name, point.name, source) for name, source in offered.items()
        }
    return list(profiles.values())


def _check_options(offer: Offer) -> None:
    if not offer.name.isidentifier():
        raise _UnfitError(f"{HOOKS[offer.kind]}: {offer.name!r} is no name such as skew_kl")
    try:
        repr(offer.options)
    except Exception as error:
        raise _UnfitError(
            f"{offer.name!r}: its options cannot be read: {_reason(error)}; annotations are looked "
            "up when it loads, so import what they name outside `if TYPE_CHECKING`"
        ) from error


def _check_api(module: object) -> None:
    declared = getattr(module, "PROMPTBAKE_API", None)
    if declared is None:
        raise _UnfitError(
            "it does not say which API it was written for; put PROMPTBAKE_API = "
            f"{API_VERSION} into its module"
        )
    if type(declared) is not int:
        raise _UnfitError(f"PROMPTBAKE_API = {declared!r}: expected a number, {API_VERSION}")
    if declared != API_VERSION:
        older = declared < API_VERSION
        raise _UnfitError(
            f"it was written for version {declared!r} of the plugin API, and this promptbake has "
            f"version {API_VERSION}; " + ("upgrade the plugin" if older else "upgrade promptbake")
        )


def _results(hook: str, caller: Any) -> list[Any]:
    """What the plugin's implementations of a hook return."""
    try:
        found: list[Any] = caller()  # pluggy leaves out what returned None
    except Exception as error:
        raise _UnfitError(f"{hook} failed: {_reason(error)}") from error
    return [None] if caller.get_hookimpls() and not found else found


def _answers(hook: str, caller: Any) -> list[Mapping[str, Any]]:
    found = _results(hook, caller)
    for factories in found:
        if not isinstance(factories, Mapping) or not all(
            isinstance(name, str) and callable(factory) for name, factory in factories.items()
        ):
            raise _UnfitError(
                f"{hook} must return a mapping from name to factory; found {factories!r}"
            )
    return found


def _reason(error: BaseException) -> str:
    if isinstance(error, _UnfitError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"needs the module {error.name}: pip install {error.name}"
    try:
        text = str(error)
    except Exception:
        text = "(it cannot say what)"
    return f"{type(error).__name__}: {text}".replace("\n", " ")
