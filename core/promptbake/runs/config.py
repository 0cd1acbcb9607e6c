"""The configuration: every setting with its type, default and meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptbake.plugins.registry import PluginChoice
from promptbake.types import Tail

Count = Annotated[int, Field(ge=1, lt=2**31, strict=True)]


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
    n_queries: Count = Field(
        50, description="how many: of the built-in ones, or to write for queries = 'generate'"
    )
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


class MarginsSection(_Section):
    """What counts as equivalent to the prompted model, each where its measurement is made.

    Recorded when `bake` begins; what was changed afterwards is named in verify.json.
    """

    gap_closed: float = Field(
        0.8,
        le=1,
        strict=True,
        description="least share of the KL that is closed on held-out queries",
    )
    reverse_kl: float = Field(
        0.5, le=1, strict=True, description="the same on the arms' own responses"
    )
    shift: float = Field(
        0.5, le=1, strict=True, description="the same on each shipped set that was never trained on"
    )
    retention: float = Field(
        0.2,
        ge=0,
        strict=True,
        description="most KL from the base model on neutral text beyond the prompted model's, "
        "nats/token",
    )
    checks: float = Field(
        0.3,
        ge=0,
        le=1,
        strict=True,
        description="most difference between the baked and the prompted model's share; ten items "
        "that all agree show less than 0.22",
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
    evaluators: tuple[str, ...] = Field(
        (), description="measurements beside the KL; and those that have options"
    )
    margins: MarginsSection = Field(
        MarginsSection(),  # type: ignore[call-arg]
        description="what counts as equivalent; recorded when `bake` begins",
    )


class ReportSection(_Section):
    """report.html and verify.json, which it is made from."""

    show_prompt: bool = Field(
        True, strict=True, description="whether they quote the prompt; false leaves its text out"
    )


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
    report: ReportSection = ReportSection()  # type: ignore[call-arg]
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
        """The evaluators that are chosen, each once: named, or given options."""
        keys = {name: f"options.evaluators.{name}" for name in self.options.get("evaluators", {})}
        keys |= dict.fromkeys(self.verify.evaluators, "verify.evaluators")
        return [PluginChoice("evaluators", name, key) for name, key in keys.items()]

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


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested tables as (dotted key, value) pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, Mapping):
            yield f"{prefix}{key}", value


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every key that a config may have, dotted; a plugin's options aside."""
    keys = []
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += known_keys(section, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
