"""Where settings come from: layers, later ones over earlier ones.

defaults < profile < the prompt's sidecar < --config FILE < --set section.key=value
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pydantic
import tomli

from promptbake.documents.text import read_text, shown
from promptbake.documents.typed import check_values, parse_toml
from promptbake.errors import BakeError, nearest
from promptbake.plugins.hookspecs import HOOKS
from promptbake.plugins.registry import PluginChoice, Registry, load
from promptbake.redaction import redact
from promptbake.runs.config import Config, flatten, known_keys

SHAPES = {  # what pydantic says in Python's words
    "tuple_type": "expected a list, such as [1, 2]",
    "dict_type": "expected a table of keys",
    "model_type": "expected a table of keys",
}


@dataclass(frozen=True)
class Layer:
    """Some values and their source."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """The config with the source of each value, by dotted key."""

    config: Config
    sources: Mapping[str, str]
    hints: tuple[str, ...] = ()  # for the user: settings that have moved
    profile: str = ""


def resolve(
    profile: str = "local",
    sidecar: Path | None = None,
    config_file: Path | None = None,
    settings: Sequence[str] | Mapping[str, object] = (),
    registry: Registry | None = None,
    recorded: Layer | None = None,
) -> Resolved:
    """Merge the layers, later ones over earlier ones, and check the result.

    Args:
        profile: A set of defaults, promptbake's own or a plugin's.
        sidecar: The prompt's TOML file, if it exists.
        config_file: A TOML file that must exist.
        settings: section.key=value lines, or values by dotted key.
        registry: The installed plugins; they are loaded where it is None.
        recorded: The settings of an earlier run, which stand in the profile's place.

    Raises:
        BakeError: With the source, the key, what was expected and the nearest valid key.
    """
    layers = [recorded or _profile(profile, registry)]
    if sidecar is not None and sidecar.exists():
        layers.append(_read(sidecar))
    if config_file is not None:
        layers.append(_read(config_file))
    if isinstance(settings, Mapping):
        layers += [_nested(key, value, f"settings {key}") for key, value in settings.items()]
    else:
        layers += [_setting(text) for text in settings]

    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        _deep_update(values, layer.values)
        sources |= dict.fromkeys((key for key, _ in flatten(layer.values)), layer.source)
        sources = {key: sources[key] for key, _ in flatten(values)}  # without what was replaced
    _refuse_secrets(values, sources)
    hints = _move_renamed(values, sources)
    try:
        config = Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise BakeError(_explain(error, sources)) from None
    for kind in config.options:
        if kind not in HOOKS:
            key = f"options.{shown(kind)}"
            raise BakeError(
                f"{_source_of(key, sources)}: {key}: unknown kind of plugin; choose from: "
                f"{', '.join(HOOKS)}{nearest(kind, HOOKS)}"
            )
    resolved = {
        key: sources.get(key, "default") for key, _ in flatten(config.model_dump(mode="json"))
    }
    return Resolved(config, resolved, hints, profile)


def _refuse_secrets(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Raise BakeError for a key or a password in a setting: settings are recorded and tracked."""
    for key, value in flatten(values):
        if any(redact(text) != text for text in (key, str(value))):
            raise BakeError(
                f"{redact(_source_of(key, sources))}: {redact(key)}: holds a key or a password, "
                "and settings are recorded; put it into the environment variable that the plugin "
                "reads (`promptbake doctor` lists them)"
            )


def _move_renamed(values: dict[str, Any], sources: dict[str, str]) -> tuple[str, ...]:
    """Put settings of the last release where they are now, with a hint for each."""
    train = values.get("train")
    if not isinstance(train, dict) or "datums" not in train:
        return ()
    layout = train.pop("datums")
    layout = "wide" if layout == "one" else layout
    source = sources.pop("train.datums", "config")
    key = f"options.backends.{train.get('backend')}.datum_layout"
    if layout != "wide":  # which is the default everywhere
        _deep_update(values, _nested(key, layout, source).values)
        sources[key] = source
    return (f"{source}: train.datums is now {key} = 'wide' or 'per_token'",)


def profiles(registry: Registry | None = None) -> list[str]:
    """The names of the profiles: promptbake's own, and the plugins'."""
    offered = (registry or load()).of("profiles")
    return sorted({*_own_profiles(), *(factory.name for factory in offered)})


def _own_profiles() -> dict[str, Traversable]:
    folder = files("promptbake") / "profiles"
    return {
        entry.name.removesuffix(".toml"): entry
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def _profile(name: str, registry: Registry | None) -> Layer:
    own = _own_profiles().get(name)
    if own is not None:
        return Layer(f"profile {name}", tomli.loads(own.read_text("utf-8")))
    registry = registry or load()
    if name not in profiles(registry):
        known = profiles(registry)
        raise BakeError(
            f"--profile {name}: unknown profile; available: {', '.join(known)}"
            f"{nearest(name, known)}"
        )
    factory = registry.choose(PluginChoice("profiles", name, "--profile"))
    try:
        return Layer(f"profile {name}", tomli.loads(factory.create({})))
    except (tomli.TOMLDecodeError, TypeError, AttributeError) as error:
        raise BakeError(
            f"--profile {name} (plugin {factory.plugin}): is not TOML: {error}"
        ) from None


def _read(path: Path) -> Layer:
    return Layer(str(path), parse_toml(read_text(path), str(path)))


def _setting(text: str) -> Layer:
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise BakeError(f"--set {shown(text)}: expected section.key=value, such as train.lr=1e-3")
    try:
        parsed: Any = parse_toml(f"value = {value}", "")["value"]
    except BakeError:
        parsed = value.strip()  # a bare word is a string
    return _nested(key, parsed, f"--set {shown(text)}")


def _nested(key: str, value: Any, source: str) -> Layer:
    if not isinstance(key, str):
        raise BakeError(f"settings: {key!r} is no key, such as 'train.lr'")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for part in reversed(key.split(".")):
        value = {part.strip(): value}
    check_values(value, source)
    return Layer(source, value)


def _deep_update(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _deep_update(below[key], value)
        else:
            below[key] = deepcopy(value)


def _explain(error: pydantic.ValidationError, sources: Mapping[str, str]) -> str:
    problems = error.errors()
    first = problems[0]
    # The location of an error in a union or a list is longer than the key.
    key = ".".join(map(str, first["loc"]))
    text = f"{_source_of(key, sources)}: {shown(key)}: "
    if first["type"] == "extra_forbidden":
        text += f"unknown setting{nearest(key, [*known_keys(), *Config.model_fields])}"
    elif first["type"] == "missing":
        text += "is missing"
    else:
        wanted = SHAPES.get(first["type"], first["msg"].lower())
        text += f"{wanted}; found {shown(repr(first['input']))}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _source_of(key: str, sources: Mapping[str, str]) -> str:
    for known, source in sources.items():
        if known == key or known.startswith(f"{key}.") or key.startswith(f"{known}."):
            return source
    return "config"
