"""The configuration: one model, and where each of its values came from.

defaults < profile < the prompt's sidecar < --config FILE < --set section.key=value
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

import pydantic
import tomli
from pydantic import BaseModel, ConfigDict, Field

from promptbake.conversations import read_text
from promptbake.errors import BakeError, nearest
from promptbake.hookspecs import HOOKS
from promptbake.plugins import DISABLE, Registry, load
from promptbake.types import Datums, Tail

Count = Annotated[int, Field(ge=1, strict=True)]
SHAPES = {  # what pydantic says in Python's words
    "tuple_type": "expected a list, such as [1, 2]",
    "dict_type": "expected a table of keys",
    "model_type": "expected a table of keys",
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The language model that is baked."""

    name: str = Field(description="a hub id, a folder, or a name that the backend knows")


class DataSection(_Section):
    """The conversations."""

    provider: str = Field(description="who answers the queries")
    queries: str = Field(
        "builtin", description="'builtin', 'generate', or a file (JSONL, CSV, text)"
    )
    temperatures: tuple[Annotated[float, Field(ge=0, le=2, strict=True)], ...] = Field(
        (0.5, 0.7, 0.9, 1.0), min_length=1, description="one response a query at each of these"
    )
    column: str | None = Field(None, description="the column of the queries, where the file is CSV")
    n_queries: Count = Field(50, description="how many to write, for queries = 'generate'")
    turns: Count = Field(1, description="answers a conversation; the user goes on in between")
    max_tokens: Count = Field(256, description="the longest response, in tokens")
    held_out: Count = Field(10, description="queries that are never trained on, for the proof")


class TeacherSection(_Section):
    """The prompted model's distribution."""

    source: str = Field(description="who gives the teacher's log-probabilities")
    top_k: Count = Field(20, description="tokens kept at each position")


class TrainSection(_Section):
    """The LoRA and its optimiser."""

    backend: str = Field(description="the engine")
    loss: str = Field(description="what is minimised")
    tail: Tail = Field("sampled", description="what stands for the tokens outside the top K")
    tail_draws: Count = Field(4, description="draws from the tail a position, for tail = sampled")
    datums: Datums = Field(
        "one",
        description="'one' a conversation, or 'per_token': one for each of the top K and the draws",
    )
    rank: Count = Field(32, description="the LoRA's rank")
    lr: float = Field(
        1e-4, gt=0, strict=True, description="the first step's learning rate; it falls to 0"
    )
    batch_size: Count = Field(16, description="conversations a step")
    epochs: Count = Field(4, description="passes over the conversations")
    save_every: Count = Field(10, description="steps between checkpoints")
    eval_every: Count = Field(10, description="steps between points of the held-out curve")
    trackers: tuple[str, ...] = Field(("jsonl",), description="who is told the metrics")


class BudgetSection(_Section):
    """What a run may spend."""

    max_dollars: float | None = Field(
        None,
        gt=0,
        strict=True,
        description="a hard cap over all stages; none where it is not set",
    )


class VerifySection(_Section):
    """The proof."""

    min_gap_closed: float = Field(0.5, le=1, description="the bar: exit 1 below it")
    questions: str = Field("builtin", description="'builtin', or a file of test questions")
    max_tokens: Count = Field(256, description="the longest answer to a test question, in tokens")
    temperature: float = Field(
        0.7,
        ge=0,
        le=2,
        strict=True,
        description="at which test questions are answered; 0 is greedy",
    )
    evaluators: tuple[str, ...] = Field((), description="measurements beside the KL")


class Config(_Section):
    """All that a run is told. A plugin's options stand under options.<kind>.<name>."""

    seed: int = Field(
        0, ge=0, lt=2**63, strict=True, description="everything random follows from it"
    )
    model: ModelSection
    data: DataSection
    teacher: TeacherSection
    train: TrainSection
    verify: VerifySection
    budget: BudgetSection = BudgetSection()  # type: ignore[call-arg]
    options: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict, description="the plugins' own, under <kind>.<name>.<option>"
    )

    def chosen(self) -> list[tuple[str, str, str]]:
        """What it names of plugins: the kind, the name and the key that names it."""
        return [
            ("data_providers", self.data.provider, "data.provider"),
            ("teachers", self.teacher.source, "teacher.source"),
            ("losses", self.train.loss, "train.loss"),
            ("backends", self.train.backend, "train.backend"),
            *(("evaluators", name, "verify.evaluators") for name in self.verify.evaluators),
            *(("trackers", name, "train.trackers") for name in self.train.trackers),
        ]

    def options_of(self, kind: str, name: str) -> Mapping[str, object]:
        """The options that were set for one plugin's offer."""
        return self.options.get(kind, {}).get(name, {})


@dataclass(frozen=True)
class Layer:
    """Some values and where they came from."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """The config with the source of each value, by dotted key."""

    config: Config
    sources: Mapping[str, str]


def resolve(
    profile: str = "local",
    sidecar: Path | None = None,
    config_file: Path | None = None,
    settings: Sequence[str] | Mapping[str, object] = (),
    registry: Registry | None = None,
) -> Resolved:
    """Lay the layers over each other, later ones over earlier ones, and check the result.

    `registry` has the profiles of the plugins; without it the plugins are loaded.

    Raises BakeError naming the source, the key, what was expected and the nearest valid key.
    """
    layers = [_profile(profile, registry or load())]
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
        _lay(values, layer.values)
        sources |= dict.fromkeys((key for key, _ in flatten(layer.values)), layer.source)
        sources = {key: sources[key] for key, _ in flatten(values)}  # without what was replaced
    try:
        config = Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise BakeError(_explain(error, sources)) from None
    for kind in config.options:
        if kind not in HOOKS:
            key = f"options.{kind}"
            raise BakeError(
                f"{_source_of(key, sources)}: {key}: there is no such kind of plugin; there is: "
                f"{', '.join(HOOKS)}{nearest(kind, HOOKS)}"
            )
    resolved = {
        key: sources.get(key, "default") for key, _ in flatten(config.model_dump(mode="json"))
    }
    return Resolved(config, resolved)


def profiles(registry: Registry | None = None) -> list[str]:
    """The names of the profiles: promptbake's own, and the plugins'."""
    offered = {profile.name for profile in (registry or load()).profiles}
    return sorted(offered | _own_profiles().keys())


def _own_profiles() -> dict[str, Traversable]:
    folder = files("promptbake") / "profiles"
    return {
        entry.name.removesuffix(".toml"): entry
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as (dotted key, value) pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            yield f"{prefix}{key}", value


def _profile(name: str, registry: Registry) -> Layer:
    offered = [profile for profile in registry.profiles if profile.name == name]
    own = _own_profiles().get(name)
    if len(offered) + (own is not None) > 1:
        owners = ["promptbake"] * (own is not None) + [f"plugin {each.plugin}" for each in offered]
        raise BakeError(
            f"--profile {name}: {' and '.join(owners)} both offer it; leave one out, as with "
            f"{DISABLE}={offered[-1].plugin}"
        )
    try:
        if own is not None:
            return Layer(f"profile {name}", tomli.loads(own.read_text("utf-8")))
        if offered:
            return Layer(f"profile {name}", tomli.loads(offered[0].text()))
    except tomli.TOMLDecodeError as error:
        raise BakeError(f"profile {name}: is not TOML: {error}") from None
    known = profiles(registry)
    raise BakeError(
        f"--profile {name}: there is no such profile; there is: {', '.join(known)}"
        f"{nearest(name, known)}{registry.not_loaded()}"
    )


def _read(path: Path) -> Layer:
    try:
        return Layer(str(path), tomli.loads(read_text(path)))
    except tomli.TOMLDecodeError as error:
        raise BakeError(f"{path}: is not TOML: {error}") from None


def _setting(text: str) -> Layer:
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise BakeError(f"--set {text}: expected section.key=value, such as train.lr=1e-3")
    try:
        parsed: Any = tomli.loads(f"value = {value}")["value"]
    except tomli.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    return _nested(key, parsed, f"--set {text}")


def _nested(key: str, value: Any, source: str) -> Layer:
    if not isinstance(key, str):
        raise BakeError(f"settings: {key!r} is no key, such as 'train.lr'")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for part in reversed(key.split(".")):
        value = {part.strip(): value}
    return Layer(source, value)


def _lay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _lay(below[key], value)
        else:
            below[key] = deepcopy(value)


def _explain(error: pydantic.ValidationError, sources: Mapping[str, str]) -> str:
    problems = error.errors()
    first = problems[0]
    # A union's or a list's location goes on past the key; the key is its known beginning.
    key = ".".join(map(str, first["loc"]))
    text = f"{_source_of(key, sources)}: {key}: "
    if first["type"] == "extra_forbidden":
        text += f"there is no such key{nearest(key, [*known_keys(), *Config.model_fields])}"
    elif first["type"] == "missing":
        text += "is missing"
    else:
        wanted = SHAPES.get(first["type"], first["msg"].lower())
        text += f"{wanted}; found {first['input']!r}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _source_of(key: str, sources: Mapping[str, str]) -> str:
    for known, source in sources.items():
        if known == key or known.startswith(f"{key}.") or key.startswith(f"{known}."):
            return source
    return "config"


def known_keys() -> list[str]:
    """Every key that a config may have, dotted; a plugin's options aside."""
    keys = []
    for name, info in Config.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{inner}" for inner in section.model_fields]
        else:
            keys.append(name)
    return keys
