"""Plugins: load, set aside what is broken, choose by name, list."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pluggy
import pydantic

from promptbake import hookspecs
from promptbake.errors import BakeError
from promptbake.hookspecs import HOOKS, TUNING

GROUP = "promptbake"
DISABLE = "PROMPTBAKE_DISABLE_PLUGINS"


@dataclass(frozen=True)
class Option:
    """One keyword argument of a factory."""

    name: str
    type: str
    default: object
    required: bool = False


@dataclass(frozen=True)
class Offer:
    """One name that a plugin offers, and the factory behind it."""

    kind: str
    name: str
    plugin: str
    version: str
    factory: Any  # a callable whose keyword arguments only its own plugin knows

    @property
    def options(self) -> tuple[Option, ...]:
        """The factory's keyword arguments."""
        annotations = _parameter_types(self.factory)
        return tuple(
            Option(
                parameter.name,
                _type_name(annotations.get(parameter.name, Any)),
                None if parameter.default is parameter.empty else parameter.default,
                parameter.default is parameter.empty,
            )
            for parameter in inspect.signature(self.factory).parameters.values()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        )

    def check(self, options: Mapping[str, object]) -> dict[str, object]:
        """The options with their types checked. Raises BakeError with the key of a wrong one."""
        key = f"options.{self.kind}.{self.name}"
        known = [option.name for option in self.options]
        for name in options:
            if name not in known:
                raise BakeError(
                    f"{key}.{name}: {self.kind} {self.name!r} (plugin {self.plugin}) has no such "
                    f"option; it takes: {', '.join(known) or 'none'}{nearest(name, known)}"
                )
        annotations = _parameter_types(self.factory)
        checked: dict[str, object] = {}
        for name, value in options.items():
            try:
                adapter = pydantic.TypeAdapter(annotations.get(name, Any))
                checked[name] = adapter.validate_python(value)
            except pydantic.ValidationError as error:
                problem = error.errors()[0]["msg"]
                raise BakeError(
                    f"{key}.{name}: {problem[0].lower()}{problem[1:]}; found {value!r}"
                ) from None
        return checked

    def telling(self, options: Mapping[str, object]) -> dict[str, object]:
        """The options that the result depends on: all but those that are annotated as tuning."""
        annotations = _parameter_types(self.factory)
        return {
            name: value
            for name, value in options.items()
            if TUNING not in getattr(annotations.get(name), "__metadata__", ())
        }

    def make(self, options: Mapping[str, object]) -> Any:
        """Call the factory with checked options. Raises BakeError where one is missing, too."""
        for option in self.options:
            if option.required and option.name not in options:
                key = f"options.{self.kind}.{self.name}.{option.name}"
                raise BakeError(f"{key}: is missing; expected {option.type}: --set {key}=...")
        return self.factory(**self.check(options))


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
                f"{key} = {name!r}: the plugins {plugins} both offer it; leave one out with "
                f"{DISABLE}={found[-1].plugin}"
            )
        names = sorted({offer.name for offer in self.of(kind)})
        there = ", ".join(names) or "none"
        message = f"{key}: there is no {name!r} among the {kind}; there is: {there}"
        message += nearest(name, names)
        if self.set_aside:
            broken = "; ".join(f"{aside.plugin} ({aside.reason})" for aside in self.set_aside)
            message += f". Did not load: {broken}"
        raise BakeError(message)


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint at the choice that was probably meant, or nothing."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def load(found: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every installed plugin except those that PROMPTBAKE_DISABLE_PLUGINS names.

    A plugin that fails is set aside with its reason; the others work.
    """
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    offers: list[Offer] = []
    aside: list[SetAside] = []
    points = entry_points(group=GROUP) if found is None else found
    for point in sorted(points, key=lambda point: point.name):
        version = point.dist.version if point.dist else "?"
        if point.name in disabled:
            aside.append(SetAside(point.name, version, f"left out by {DISABLE}"))
            continue
        try:
            offers += _offers(point.name, version, point.load())
        except Exception as error:  # a stranger's module may raise anything
            aside.append(SetAside(point.name, version, _reason(error)))
    return Registry(tuple(offers), tuple(aside))


def _offers(plugin: str, version: str, module: object) -> list[Offer]:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(module, plugin)
    manager.check_pending()  # an unknown hook is a typing mistake
    offers = []
    for kind, hook in HOOKS.items():
        caller = getattr(manager.hook, hook)
        found = caller()  # pluggy leaves out what returned None
        if caller.get_hookimpls() and not found:
            _check(hook, None)
        for factories in found:
            _check(hook, factories)
            offers += [Offer(kind, name, plugin, version, make) for name, make in factories.items()]
    if not offers:
        raise TypeError("it implements none of the hooks: " + ", ".join(HOOKS.values()))
    return offers


def _check(hook: str, factories: object) -> None:
    if not isinstance(factories, Mapping) or not all(
        isinstance(name, str) and callable(factory) for name, factory in factories.items()
    ):
        raise TypeError(f"{hook} must return a mapping from name to factory; found {factories!r}")


def _type_name(annotation: object) -> str:
    """The type as a user may read it: without its bounds, and by its short name."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    parts = get_args(annotation)
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return " | ".join(_type_name(part) for part in parts)
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, parts))
    if parts:
        outer = getattr(get_origin(annotation), "__name__", str(annotation))
        return f"{outer}[{', '.join(_type_name(part) for part in parts)}]"
    return "None" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))


def _parameter_types(factory: Any) -> dict[str, Any]:
    # Without the return annotation, which a light module may import for the type checker only.
    while isinstance(factory, functools.partial):
        factory = factory.func
    function = factory.__init__ if inspect.isclass(factory) else inspect.unwrap(factory)
    written = dict(getattr(function, "__annotations__", {}))  # a class may have no __init__
    written.pop("return", None)
    shim = SimpleNamespace(
        __annotations__=written, __globals__=getattr(function, "__globals__", {})
    )
    return get_type_hints(shim, include_extras=True)


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"needs the module {error.name}: pip install {error.name}"
    return f"{type(error).__name__}: {error}".replace("\n", " ")
