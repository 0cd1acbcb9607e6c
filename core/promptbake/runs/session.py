"""A session: opens what a command needs of a run, each at first use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from promptbake.dataset.example_turns import with_system
from promptbake.distill.checkpoints import differing, read_adapter
from promptbake.documents.text import read_text
from promptbake.errors import BakeError
from promptbake.interfaces import (
    Backend,
    DataProvider,
    Evaluator,
    Loss,
    Model,
    Renderer,
    Teacher,
    Tracker,
)
from promptbake.plugins.attribution import attribute, attributed, contract_error
from promptbake.plugins.registry import PluginChoice, Registry, load
from promptbake.progress import Reporter
from promptbake.redaction import redact
from promptbake.runs.config import Config
from promptbake.runs.layers import Layer, Resolved, resolve
from promptbake.runs.ledger import Ledger
from promptbake.runs.run_folder import Run
from promptbake.types import BakeTarget, Checkpoint, Prompt

REQUIRED_MEMBERS = {  # what an object of each kind is asked for in any run
    "data_providers": ("queries", "estimate_cost", "generate"),
    "teachers": ("score", "samples_tail"),
    "losses": ("support", "linear", "__call__"),
    "backends": ("open_model",),
    "evaluators": ("estimate_cost", "evaluate"),
    "trackers": ("start", "log", "finish"),
}
SCHEME = "://"
LONGEST_NAME = 200  # bytes
NO_PROMPT = Prompt("", "")


def read_prompt(path: Path) -> Prompt:
    """The prompt of a file. Raises BakeError for one that is missing, empty or not text."""
    text = read_text(path).strip()
    if not text:
        raise BakeError(f"{path}: the prompt is empty")
    try:
        with_system(text, ())
    except BakeError as error:
        raise BakeError(f"{path}: {error}") from None
    return _checked(Prompt(path.stem, text))


@dataclass(frozen=True)
class Session:
    """What a command opens of a run: its plugins, its models, its checkpoint.

    Attributes:
        prompt: What is baked.
        targets: What is learned: one target, made from the prompt, unless the settings list more.
        resolved: The settings, with their sources.
        run: The run's folder.
        registry: The installed plugins.
        reporter: Shows progress and notes to the user.
        address: Of a checkpoint, where one was given in place of a prompt. Where a run's folder was
            given, the prompt is empty and the settings are those on record.
        command: What the user typed; empty from Python.
    """

    prompt: Prompt
    targets: tuple[BakeTarget, ...]
    resolved: Resolved
    run: Run
    registry: Registry
    reporter: Reporter
    address: str | None = None
    command: str = ""

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.resolved.config

    @contextmanager
    def stage_lock(self, stage: str) -> Iterator[None]:
        """Keep other processes out while a stage works in the run, and account for its costs."""
        self.require_prompt(stage)
        with self.run.locked():
            self.budget.stage = stage
            try:
                yield
            except BaseException as error:
                self.note_failure(error)
                raise
            finally:
                self.budget.stage = ""
                self.budget.close()

    def note_failure(self, error: BaseException) -> None:
        """Tell the backend, where it is open, that the command has failed or was interrupted."""
        if "backend" in vars(self) and hasattr(self.backend, "note_failure"):
            self.backend.note_failure(error)

    def refuse_address(self, command: str) -> None:
        """Raise BakeError where a checkpoint's address was given in place of a prompt."""
        if self.address:
            raise BakeError(f"{self.address}: is a checkpoint; to {command}, give a prompt's file")

    def begin(
        self,
        stage: str,
        inputs: Mapping[str, object],
        *,
        clean: bool = True,
        fixed: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Record in the run that a stage has begun, with all settings; see `Run.begin`."""
        config = self.config.model_dump(mode="json")
        versions, profile = self.plugin_versions, self.resolved.profile
        self.run.begin(stage, inputs, config, versions, profile, clean=clean, fixed=fixed)

    def refuse_replacement(self) -> None:
        """Raise BakeError where a finished bake of another profile or model would be replaced."""
        self.run.check_replaceable(self.config, self.resolved.profile)

    def require_prompt(self, command: str) -> None:
        """Raise BakeError where a checkpoint or a run's folder was given in place of a prompt."""
        self.refuse_address(command)
        if not self.prompt.text:
            raise BakeError(
                f"{self.run.path}: is a run's folder; to {command}, give the prompt's file"
            )

    @property
    def plugin_versions(self) -> dict[str, str]:
        """The versions of the plugins that the config names."""
        factories = [self.registry.choose(choice) for choice in self.config.choices]
        return {factory.plugin: factory.version for factory in factories}

    def result_options(self, choice: PluginChoice) -> dict[str, object]:
        """The options of a plugin that its result depends on."""
        return self.registry.choose(choice).result_options(self.config.options_of(choice))

    def create(self, choice: PluginChoice) -> Any:
        """A plugin's object, with its options. An error that it raises names the plugin."""
        factory = self.registry.choose(choice)
        options = self.config.options_of(choice)
        listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
        origin = f"{factory.origin}, options: {listed or 'none'}"
        with attribute(origin):
            product = factory.create(options)
        wrapped = attributed(product, origin)
        required = REQUIRED_MEMBERS[choice.kind]
        if missing := [name for name in required if not hasattr(product, name)]:
            raise contract_error(wrapped, f"has no {', '.join(missing)}")
        return wrapped

    @cached_property
    def provider(self) -> DataProvider:
        """The data provider that `data.provider` names."""
        provider: DataProvider = self.create(self.config.provider)
        return provider

    def teacher(self) -> Teacher:
        """The teacher that `teacher.source` names."""
        teacher: Teacher = self.create(self.config.teacher_source)
        return teacher

    @cached_property
    def loss(self) -> Loss:
        """The loss that `train.loss` names."""
        loss: Loss = self.create(self.config.loss)
        return loss

    def evaluators(self) -> dict[str, Evaluator]:
        """The evaluators that `verify.evaluators` names, by name."""
        return {choice.name: self.create(choice) for choice in self.config.evaluators}

    def trackers(self) -> list[Tracker]:
        """The trackers that `train.trackers` names."""
        return [self.create(choice) for choice in self.config.trackers]

    @cached_property
    def backend(self) -> Backend:
        """The backend that `train.backend` names."""
        backend: Backend = self.create(self.config.backend)
        return backend

    @cached_property
    def budget(self) -> Ledger:
        """What the run has spent, and may spend; outside the stages nothing is recorded."""
        return Ledger(self.run.costs, self.config.budget.max_dollars, self.run.claim)

    @cached_property
    def base(self) -> Model:
        """The base model, opened at first use."""
        base = self.backend.open_model(self.config.model.name, self.budget)
        for warning in base.warnings:
            self.reporter.say(f"model {base.name}: {warning}")
        return base

    @property
    def renderer(self) -> Renderer | None:
        """The base model's chat template; None where it takes the weights to open it."""
        return self.base.renderer if "base" in vars(self) else self._renderer

    @cached_property
    def _renderer(self) -> Renderer | None:
        if hasattr(self.backend, "open_renderer"):
            renderer: Renderer = self.backend.open_renderer(self.config.model.name)
            return renderer
        return None

    def open_base(self) -> Model:
        """The base model, for plugins that may not need it."""
        return self.base

    @property
    def model_is_open(self) -> bool:
        """Whether the base model has been opened."""
        return "base" in vars(self)

    @cached_property
    def model_digest(self) -> str:
        """The base model's digest, of a model that is not opened where the backend can tell."""
        digest_of = getattr(self.backend, "model_digest", None)
        if digest_of is None or self.model_is_open:
            return self.base.digest
        return digest_of(self.config.model.name) or self.base.digest

    @cached_property
    def baked(self) -> Model:
        """The baked model: of the run's adapter, or of the address that was given."""
        return self.load_adapter(1.0)

    def load_adapter(self, strength: float) -> Model:
        """The baked model, with the adapter's change of the weights multiplied by `strength`."""
        return self.backend.load_adapter(self.base, self.checkpoint, strength=strength)

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the baked model's weights are. Raises BakeError where there are none."""
        if self.address:
            return Checkpoint(self.backend.name, self.base.name, self.base.digest, self.address)
        stage = self.run.stage("bake")
        if stage and not stage["done"] and self.run.adapter.exists():
            raise BakeError(
                f"{self.run.adapter}: the bake with the present settings has not finished; run "
                "`promptbake bake` to resume it"
            )
        checkpoint = read_adapter(self.run.adapter, self.backend.name, self.base)
        if damaged := differing(self.run.adapter, stage.get("adapter", {})):
            raise BakeError(
                f"{self.run.adapter}: {', '.join(damaged)}: not as the bake left it (SHA-256); run "
                "`promptbake bake` to write it again"
            )
        return checkpoint


def open_session(
    prompt: str | Path | Prompt,
    *,
    profile: str,
    config_file: Path | None,
    settings: Sequence[str] | Mapping[str, object],
    run: str | Path | None,
    reporter: Reporter,
    command: str = "",
) -> Session:
    """Read the prompt, resolve the config, load the plugins; open no model yet.

    Args:
        prompt: A file, a Prompt, a run's folder, or a checkpoint's address (SCHEME://...), which
            has no run.
        profile: A set of defaults.
        config_file: A TOML file of settings.
        settings: section.key=value lines, or values by dotted key.
        run: The run's folder; runs/<prompt's name> where it is None.
        reporter: Shows progress and notes to the user.
        command: What the user typed, to be recorded with the result.
    """
    set_thread_defaults()
    sidecar, address, folder, recorded = None, None, Path(), None
    if isinstance(prompt, Prompt):
        prompt = _checked(prompt)
    elif SCHEME in str(prompt):
        prompt, address = NO_PROMPT, str(prompt)
    elif (Path(prompt) / Run.RECORD).is_file():
        whole = Path(prompt)
        run, prompt, recorded = run or whole, NO_PROMPT, _recorded_settings(Run(whole))
    else:
        file = Path(prompt)
        prompt, sidecar, folder = read_prompt(file), file.with_suffix(".toml"), file.parent
        _check_name(prompt)  # that of its folder below runs/
    registry = load()
    resolved = resolve(profile, sidecar, config_file, settings, registry, recorded)
    targets = _targets(resolved.config, prompt, folder)
    if run is not None and not str(run):
        raise BakeError("--run '': is no folder's name; leave it out for runs/<prompt's name>")
    run_folder = Run(Path("runs") / prompt.name if run is None else Path(run))
    session = Session(
        prompt, targets, resolved, run_folder, registry, reporter, address, redact(command)
    )
    _check_names(session)
    for hint in resolved.hints:
        reporter.say(hint)
    return session


def set_thread_defaults() -> None:
    """What is to be set before torch is imported, where the user has not set it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads fight over few cores
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _recorded_settings(run: Run) -> Layer:
    """The settings that a run was made with, in place of a profile."""
    return Layer(str(run.record_file), run.record["config"])


def _targets(config: Config, prompt: Prompt, folder: Path) -> tuple[BakeTarget, ...]:
    """What is learned; files are looked for beside the prompt's."""
    if not config.targets:
        return (BakeTarget("", prompt),)

    def read(file: str) -> Prompt:
        return read_prompt(folder / file) if file else NO_PROMPT

    targets = tuple(
        BakeTarget(each.name, read(each.teacher), read(each.student), each.weight, each.queries)
        for each in config.targets
    )
    if len({target.name for target in targets}) < len(targets):
        raise BakeError("targets: two of them have one name")
    return targets


def _checked(prompt: Prompt) -> Prompt:
    if not isinstance(prompt.text, str) or not prompt.text.strip():
        raise BakeError(f"prompt {prompt.name!r}: the prompt is empty")
    with_system(prompt.text, ())  # raises for examples that are no turns
    _check_name(prompt)
    return prompt


def _check_name(prompt: Prompt) -> None:
    name = prompt.name
    if not (
        isinstance(name, str)
        and name.isprintable()
        and Path(name).name == name not in ("", "..")
        and len(name.encode()) <= LONGEST_NAME
    ):
        raise BakeError(f"prompt {name!r}: its name must be one that a folder can have")


def _check_names(session: Session) -> None:
    """Refuse every unknown plugin name and option before any work is done."""
    config = session.config
    for choice in config.choices:
        session.registry.choose(choice)
    for kind, names in config.options.items():
        for name, options in names.items():
            choice = PluginChoice(kind, name, f"options.{kind}.{name}")
            session.registry.choose(choice).check(options)
