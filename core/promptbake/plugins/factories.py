"""One name that a plugin offers: its options, what it requires, and how it is created."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pydantic

from promptbake.documents.text import shown
from promptbake.errors import BakeError, nearest
from promptbake.plugins.hookspecs import HOOKS, RUNTIME_ONLY, WITHOUT_OPTIONS, Requirements


@dataclass(frozen=True)
class Option:
    """One keyword argument of a factory."""

    name: str
    type: str
    default: object
    required: bool = False
    meaning: str = ""
    annotation: Any = Any

    def as_json(self) -> dict[str, object]:
        """What `promptbake plugins --json` prints."""
        return {name: value for name, value in vars(self).items() if name != "annotation"}


@dataclass(frozen=True)
class PluginFactory:
    """One name that a plugin offers, and the factory behind it."""

    kind: str
    name: str
    plugin: str
    version: str
    function: Any  # a callable whose keyword arguments only its own plugin knows
    module: str = ""  # of the entry point

    @property
    def origin(self) -> str:
        """Plugin, version, hook and name, for a message."""
        return f"plugin {self.plugin} {self.version}, hook {HOOKS[self.kind]}, {self.name!r}"

    @property
    def requirements(self) -> Requirements:
        """What it requires beside its plugin."""
        requirements: Requirements = getattr(
            _innermost(self.function), "promptbake_requirements", Requirements()
        )
        return requirements

    @property
    def missing_modules(self) -> tuple[str, ...]:
        """The modules that it requires and that cannot be found."""
        return tuple(name for name in self.requirements.modules if not _is_installed(name))

    @property
    def options(self) -> tuple[Option, ...]:
        """The factory's keyword arguments; a command and a profile have none."""
        if self.kind in WITHOUT_OPTIONS:
            return ()
        annotations, meanings = _parameter_types(self.function), _meanings(self.function)
        return tuple(
            Option(
                parameter.name,
                type_name(annotations.get(parameter.name, Any)),
                None if parameter.default is parameter.empty else parameter.default,
                parameter.default is parameter.empty,
                meanings.get(parameter.name, ""),
                annotations.get(parameter.name, Any),
            )
            for parameter in inspect.signature(self.function).parameters.values()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        )

    def check(self, options: Mapping[str, object]) -> dict[str, object]:
        """The options with their types checked. Raises BakeError with the key of a wrong one."""
        key = f"options.{self.kind}.{self.name}"
        known = [option.name for option in self.options]
        for name in options:
            if name not in known:
                raise BakeError(
                    f"{key}.{shown(name)}: {self.kind} {self.name!r} (plugin {self.plugin}) has no "
                    f"such option; it takes: {', '.join(known) or 'none'}{nearest(name, known)}"
                )
        annotations = _parameter_types(self.function)
        checked: dict[str, object] = {}
        for name, value in options.items():
            try:
                checked[name] = option_adapter(annotations.get(name, Any)).validate_python(value)
            except pydantic.ValidationError as error:
                problem = error.errors()[0]["msg"]
                raise BakeError(
                    f"{key}.{name}: {problem[0].lower()}{problem[1:]}; found {shown(repr(value))}"
                ) from None
        return checked

    def result_options(self, options: Mapping[str, object]) -> dict[str, object]:
        """The options that the result depends on: all but those that are annotated RUNTIME_ONLY."""
        annotations = _parameter_types(self.function)
        return {
            name: value
            for name, value in options.items()
            if RUNTIME_ONLY not in getattr(annotations.get(name), "__metadata__", ())
        }

    def create(self, options: Mapping[str, object]) -> Any:
        """Call the factory with checked options.

        Raises BakeError where an option is missing, too, or a module that it needs.
        """
        if missing := self.missing_modules:
            raise BakeError(
                f"{self.kind} {self.name!r} (plugin {self.plugin}) needs the module {missing[0]}: "
                f"pip install '{self.requirements.install}'"
            )
        for option in self.options:
            if option.required and option.name not in options:
                key = f"options.{self.kind}.{self.name}.{option.name}"
                raise BakeError(f"{key}: is missing; expected {option.type}: --set {key}=...")
        return self.function(**self.check(options))


def option_adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    """The adapter of an option's type; numbers are finite."""
    return pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(allow_inf_nan=False))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # its package is missing, or it is None in sys.modules
        return False


def _innermost(factory: Any) -> Any:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return factory


def _meanings(factory: Any) -> dict[str, str]:
    """What the section `Args:` of a factory's docstring says of each option."""
    section = (inspect.getdoc(_innermost(factory)) or "").partition("\nArgs:\n")[2]
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def type_name(annotation: object) -> str:
    """The type as a user may read it: without its bounds, and by its short name."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    parts = get_args(annotation)
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return " | ".join(type_name(part) for part in parts)
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, parts))
    if parts[1:] == (Ellipsis,):
        return f"list[{type_name(parts[0])}]"
    if parts:
        outer = getattr(get_origin(annotation), "__name__", str(annotation))
        return f"{outer}[{', '.join(type_name(part) for part in parts)}]"
    return "None" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))


def _parameter_types(factory: Any) -> dict[str, Any]:
    # Without the return annotation, which a light module may import for the type checker only.
    factory = _innermost(factory)
    function = factory.__init__ if inspect.isclass(factory) else inspect.unwrap(factory)
    written = dict(getattr(function, "__annotations__", {}))  # a class may have no __init__
    written.pop("return", None)
    shim = SimpleNamespace(
        __annotations__=written, __globals__=getattr(function, "__globals__", {})
    )
    return get_type_hints(shim, include_extras=True)
