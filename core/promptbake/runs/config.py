"""The configuration: one model, and the source of each value.

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
from typing import Annotated, Any, Literal

import pydantic
import tomli
from pydantic import BaseModel, ConfigDict, Field

from promptbake.documents.text import read_text, shown
from promptbake.documents.typed import check_values, parse_toml
from promptbake.errors import BakeError, nearest
from promptbake.plugins.hookspecs import HOOKS
from promptbake.plugins.registry import PluginChoice, Registry, load
from promptbake.redaction import redact
from promptbake.types import Tail

Count = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
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

    provider: str = Field(description="what generates the responses")
    queries: str = Field(
        "builtin", description="'builtin', 'generate', or a file (JSONL, CSV, text)"
    )
    temperatures: tuple[Annotated[float, Field(ge=0, le=2, strict=True)], ...] = Field(
        (0.5, 0.7, 0.9, 1.0), min_length=1, description="one response a query at each of these"
    )
    column: str | None = Field(None, description="the column of the queries, where the file is CSV")
    n_queries: Count = Field(50, description="how many to write, for queries = 'generate'")
    turns: Count = Field(1, description="answers a conversation; the user is simulated in between")
    max_tokens: Count = Field(256, description="maximum tokens per response")
    held_out: Count = Field(10, description="queries that are never trained on, for verify")
    min_kept: float = Field(0.5, ge=0, le=1, description="share of the responses, or data fails")


class TeacherSection(_Section):
    """The prompted model's distribution."""

    source: str = Field(description="what gives the teacher's log-probabilities")
    top_k: Count = Field(20, description="tokens kept at each position")


class TrainSection(_Section):
    """The LoRA and its optimiser."""

    backend: str = Field(description="the engine")
    loss: str = Field(description="what is minimised")
    tail: Literal["auto", Tail] = Field(
        "auto", description="how tokens outside the top K are treated; 'auto': by the teacher"
    )
    tail_draws: Count = Field(4, description="draws from the tail a position, for tail = sampled")
    rank: Count = Field(32, description="the LoRA's rank")
    lr: float = Field(
        1e-4, gt=0, le=1e30, strict=True, description="of the first step; it falls to 0 at the last"
    )
    batch_size: Count = Field(16, description="conversations a step")
    epochs: Count = Field(4, description="passes over the conversations")
    save_every: Count = Field(10, description="steps between checkpoints")
    eval_every: Count = Field(10, description="steps between points of the held-out curve")
    trackers: tuple[str, ...] = Field(("jsonl",), description="where metrics are logged")


class TargetSection(_Section):
    """One thing to learn, where a run has several: with `student`, answer as with `teacher`."""

    name: str = Field(pattern=r"^[\w-]+$", description="what the report calls it")
    teacher: str = Field(description="file of the teacher's prompt; '' for none")
    student: str = Field("", description="file of the student's prompt; '' for none")
    weight: float = Field(
        1.0, gt=0, le=1e6, strict=True, description="of its loss, beside the other targets'"
    )
    queries: str = Field("", description="as data.queries, which it replaces")


class BudgetSection(_Section):
    """What a run may spend."""

    max_dollars: float | None = Field(
        None,
        gt=0,
        strict=True,
        description="a hard cap over all stages; none where it is not set",
    )


class VerifySection(_Section):
    """The measurements."""

    min_gap_closed: float = Field(0.5, le=1, description="the threshold: exit 1 below it")
    questions: str = Field("builtin", description="'builtin', or a file of test questions")
    max_tokens: Count = Field(256, description="maximum tokens per answer to a test question")
    temperature: float = Field(
        0.7,
        ge=0,
        le=2,
        strict=True,
        description="at which test questions are answered; 0 is greedy",
    )
    evaluators: tuple[str, ...] = Field((), description="measurements beside the KL")


class Config(_Section):
    """All settings of a run. A plugin's options stand under options.<kind>.<name>."""

    seed: int = Field(
        0, ge=0, lt=2**63, strict=True, description="everything random follows from it"
    )
    model: ModelSection
    data: DataSection
    teacher: TeacherSection
    train: TrainSection
    verify: VerifySection
    budget: BudgetSection = BudgetSection()  # type: ignore[call-arg]
    targets: tuple[TargetSection, ...] = Field(
        (), description="what is learned; the prompt for the teacher alone where there is none"
    )
    options: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict, description="the plugins' own, under <kind>.<name>.<option>"
    )

    @property
    def provider(self) -> PluginChoice:
        """The data provider that is chosen."""
        return PluginChoice("data_providers", self.data.provider, "data.provider")

    @property
    def teacher_source(self) -> PluginChoice:
        """The teacher that is chosen."""
        return PluginChoice("teachers", self.teacher.source, "teacher.source")

    @property
    def loss(self) -> PluginChoice:
        """The loss that is chosen."""
        return PluginChoice("losses", self.train.loss, "train.loss")

    @property
    def backend(self) -> PluginChoice:
        """The backend that is chosen."""
        return PluginChoice("backends", self.train.backend, "train.backend")

    @property
    def evaluators(self) -> list[PluginChoice]:
        """The evaluators that are chosen, each once."""
        names = dict.fromkeys(self.verify.evaluators)
        return [PluginChoice("evaluators", name, "verify.evaluators") for name in names]

    @property
    def trackers(self) -> list[PluginChoice]:
        """The trackers that are chosen, each once."""
        names = dict.fromkeys(self.train.trackers)
        return [PluginChoice("trackers", name, "train.trackers") for name in names]

    @property
    def choices(self) -> list[PluginChoice]:
        """Every plugin that is chosen."""
        single = [self.provider, self.teacher_source, self.loss, self.backend]
        return [*single, *self.evaluators, *self.trackers]

    def options_of(self, choice: PluginChoice) -> Mapping[str, object]:
        """The options that were set for one plugin."""
        return self.options.get(choice.kind, {}).get(choice.name, {})


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
            key = f"options.{kind}"
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


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as (dotted key, value) pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            yield f"{prefix}{key}", value


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
