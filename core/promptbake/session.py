"""What the stages share: a prompt, its config, its run folder, the plugins, the open model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from promptbake.attribution import Use, attribute
from promptbake.checkpoints import read_adapter
from promptbake.config import Config, Resolved, resolve
from promptbake.conversations import read_text
from promptbake.errors import BakeError, ContractError
from promptbake.interfaces import Backend, Model
from promptbake.ledger import Ledger
from promptbake.plugins import Registry, load
from promptbake.progress import Reporter
from promptbake.runs import Run
from promptbake.types import Checkpoint, Prompt

ASKED = {  # what an object of each kind is asked for in any run
    "data_providers": ("queries", "quote", "generate"),
    "teachers": ("targets",),
    "losses": ("targets", "linear", "__call__"),
    "backends": ("open_model",),
    "evaluators": ("evaluate",),
    "trackers": ("start", "log", "finish"),
}
SCHEME = "://"
LONGEST_NAME = 200  # bytes


def read_prompt(path: Path) -> Prompt:
    """The prompt of a file. Raises BakeError for one that is missing, empty or not text."""
    text = read_text(path).strip()
    if not text:
        raise BakeError(f"{path}: the prompt is empty")
    return Prompt(path.stem, text)


@dataclass(frozen=True)
class Session:
    """One command's view of a run."""

    prompt: Prompt
    resolved: Resolved
    run: Run
    registry: Registry
    reporter: Reporter
    address: str | None = None  # of a checkpoint, where one was given in the place of a prompt
    uses: list[Use] = field(default_factory=list)  # what was made so far

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.resolved.config

    @contextmanager
    def at_work(self, stage: str) -> Iterator[None]:
        """Keep others out while a stage works in the run; what it pays for is on its account."""
        self.refuse_address(stage)
        with self.run.locked():
            self.budget.stage = stage
            try:
                yield
            finally:
                self.budget.stage = ""
                self.budget.close()

    @contextmanager
    def attributed(self) -> Iterator[None]:
        """Note on an error that came out of a plugin which one it was."""
        try:
            yield
        except SystemExit as end:  # of a plugin: a program does not end by it without a word
            error = RuntimeError(f"SystemExit: {end}").with_traceback(end.__traceback__)
            attribute(error, self.uses)
            raise error from None
        except Exception as error:
            attribute(error, self.uses)
            raise

    def refuse_address(self, what_for: str) -> None:
        """Raise BakeError where there is a checkpoint's address in the place of a prompt."""
        if self.address:
            raise BakeError(f"{self.address}: is a checkpoint; to {what_for}, give a prompt's file")

    @property
    def plugins(self) -> dict[str, str]:
        """The versions of the plugins that the config names."""
        offers = [self.registry.choose(*named) for named in self.config.chosen()]
        return {offer.plugin: offer.version for offer in offers}

    def telling_options(self, kind: str, name: str, key: str) -> dict[str, object]:
        """The options of that plugin that its result depends on."""
        offer = self.registry.choose(kind, name, key)
        return offer.telling(self.config.options_of(kind, name))

    def make(self, kind: str, name: str, key: str) -> Any:
        """The plugin's object of that kind and name, with its options; `key` named it."""
        offer = self.registry.choose(kind, name, key)
        use = Use(offer, self.config.options_of(kind, name))
        self.uses.append(use)
        use.product = offer.make(use.options)
        if missing := [name for name in ASKED[kind] if not hasattr(use.product, name)]:
            raise ContractError(use.product, f"has no {', '.join(missing)}")
        return use.product

    @cached_property
    def backend(self) -> Backend:
        """The backend that `train.backend` names."""
        backend: Backend = self.make("backends", self.config.train.backend, "train.backend")
        return backend

    @cached_property
    def budget(self) -> Ledger:
        """What the run has spent, and may spend; outside the stages nothing is kept of it."""
        return Ledger(self.run.costs, self.config.budget.max_dollars)

    @cached_property
    def base(self) -> Model:
        """The base model, opened at first use."""
        base = self.backend.open_model(self.config.model.name, self.budget)
        for notice in base.notices:
            self.reporter.say(f"model {base.name}: {notice}")
        return base

    @cached_property
    def baked(self) -> Model:
        """The baked model: of the run's adapter, or of the address that was given."""
        return self.backend.load_adapter(self.base, self.checkpoint)

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the baked model's weights are. Raises BakeError where there are none."""
        if self.address:
            return Checkpoint(self.backend.name, self.base.name, self.base.digest, self.address)
        return read_adapter(self.run.adapter, self.backend.name, self.base)

    def open_model(self) -> Model:
        """The base model, for plugins that may not need it."""
        return self.base


def open_session(
    prompt: str | Path | Prompt,
    *,
    profile: str,
    config_file: Path | None,
    settings: Sequence[str] | Mapping[str, object],
    run: Path | None,
    reporter: Reporter,
) -> Session:
    """Read the prompt, resolve the config, load the plugins; open no model yet.

    In the place of a prompt's file there may be a checkpoint's address, SCHEME://..., which has
    neither prompt nor run.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads fight over few cores
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if isinstance(prompt, Prompt):
        found, sidecar, address = _checked(prompt), None, None
    elif SCHEME in str(prompt):
        found, sidecar, address = Prompt("", ""), None, str(prompt)
    else:
        file, address = Path(prompt), None
        found, sidecar = read_prompt(file), file.with_suffix(".toml")
    registry = load()
    resolved = resolve(profile, sidecar, config_file, settings, registry)
    folder = Run(run or Path("runs") / found.name)
    session = Session(found, resolved, folder, registry, reporter, address)
    _check_names(session)
    return session


def _checked(prompt: Prompt) -> Prompt:
    if not isinstance(prompt.text, str) or not prompt.text.strip():
        raise BakeError(f"prompt {prompt.name!r}: the prompt is empty")
    name = prompt.name
    if not (
        isinstance(name, str)
        and name.isprintable()
        and Path(name).name == name not in ("", "..")
        and len(name.encode()) <= LONGEST_NAME
    ):
        raise BakeError(f"prompt {name!r}: its name must be one that a folder can have")
    return prompt


def _check_names(session: Session) -> None:
    """Refuse every unknown plugin name and option before any work is done."""
    config = session.config
    for kind, name, key in config.chosen():
        session.registry.choose(kind, name, key)
    for kind, names in config.options.items():
        for name, options in names.items():
            session.registry.choose(kind, name, f"options.{kind}.{name}").check(options)
