"""Every setting with its type, default and meaning; and the JSON Schema of a prompt's TOML file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pydantic
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from promptbake.plugins.factories import Option, PluginFactory, type_name
from promptbake.plugins.hookspecs import HOOKS, WITHOUT_OPTIONS
from promptbake.runs.config import Config

BY_PROFILE = "set by the profile"
REQUIRED = "required"


@dataclass(frozen=True)
class Setting:
    """One key that `--set` takes.

    Attributes:
        key: Dotted.
        type: As a user reads it, such as `list of int`.
        default: As in TOML, or the words for where there is none.
        meaning: What it is, in one sentence.
    """

    key: str
    type: str
    default: str
    meaning: str


def describe(factories: Iterable[PluginFactory]) -> list[Setting]:
    """All settings of promptbake, then the options of these plugins."""
    factories = list(factories)
    options = [_option(each, option, factories) for each in factories for option in each.options]
    return [*_fields(Config, ""), *options]


def json_schema(factories: Iterable[PluginFactory]) -> dict[str, Any]:
    """What a prompt's TOML file may hold; every key in it is optional."""
    schema = Config.model_json_schema()
    for name in ("", *(f"{section.title()}Section" for section in _sections())):
        schema.get("$defs", {}).get(name, schema if not name else {}).pop("required", None)
    by_kind: dict[str, dict[str, Any]] = {kind: {} for kind in HOOKS if kind not in WITHOUT_OPTIONS}
    for factory in factories:
        if factory.kind in by_kind:
            by_kind[factory.kind][factory.name] = _table(
                {option.name: _property(option) for option in factory.options}
            )
    options = _table({kind: _table(tables) for kind, tables in by_kind.items()})
    schema["properties"]["options"] = options | {"description": "The plugins' own options."}
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | schema


def _sections() -> Iterator[str]:
    for name, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield name


def _fields(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, info in model.model_fields.items():
        inner = info.annotation
        item = get_args(inner)[0] if get_args(inner) else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{prefix}{name}.")
        elif isinstance(item, type) and issubclass(item, BaseModel):  # [[targets]]
            yield from _fields(item, f"{prefix}{name}[].")
        elif name != "options":  # which follow by plugin
            yield Setting(
                prefix + name, type_name(inner), _default(info, prefix), info.description or ""
            )


def _default(info: FieldInfo, prefix: str) -> str:
    if info.default is PydanticUndefined:
        return REQUIRED if "[]" in prefix else BY_PROFILE
    return _shown(info.default)


def _option(factory: PluginFactory, option: Option, factories: Sequence[PluginFactory]) -> Setting:
    default = REQUIRED if option.required else _shown(option.default)
    key = f"options.{factory.kind}.{factory.name}.{option.name}"
    meaning = option.meaning or _meaning_elsewhere(factory, option, factories)
    return Setting(key, option.type, default, meaning)


def _meaning_elsewhere(
    factory: PluginFactory, option: Option, factories: Sequence[PluginFactory]
) -> str:
    """Where a docstring says that options are those of `another`: what that one says of it."""
    named = set(re.findall(r"`(\w+)`", inspect.getdoc(factory.function) or ""))
    meanings = (
        each.meaning
        for other in factories
        if other.name in named
        for each in other.options
        if each.name == option.name and each.meaning
    )
    return next(meanings, "")


def _shown(value: object) -> str:
    return "not set" if value is None else repr(list(value) if isinstance(value, tuple) else value)


def _property(option: Option) -> dict[str, Any]:
    try:
        schema = pydantic.TypeAdapter(option.annotation).json_schema()
    except pydantic.PydanticUserError:  # a type that no schema can name is not checked
        schema = {}
    if "$defs" in schema:
        schema = {}
    if option.meaning:
        schema["description"] = option.meaning
    if not option.required and option.default is not None:
        schema["default"] = to_jsonable_python(option.default, fallback=str)
    return schema


def _table(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}
