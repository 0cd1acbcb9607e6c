"""A run on Tinker, against a loopback server in this process that counts the requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command import Process, Result, promptbake
from run_folder import settings

from promptbake.testing.tiny import save_tiny
from promptbake_loopback.tinker import KEY, Meter, TinkerLoopback

QUERIES = 10
HELD_OUT = 2
EPOCHS = 2
BATCH = 4
STEPS = EPOCHS * (QUERIES - HELD_OUT) // BATCH
ARGUMENTS = settings(
    "data.queries=queries.txt",
    f"data.held_out={HELD_OUT}",
    "data.max_tokens=8",
    f"train.epochs={EPOCHS}",
    f"train.batch_size={BATCH}",
    "train.rank=4",
    "train.eval_every=100",
    "verify.max_tokens=4",
    "verify.min_gap_closed=-100",
    "train.backend=tinker",
    "options.backends.tinker.renderer=chat_template",
    "options.backends.tinker.max_grad_norm=1.0",
    "options.backends.tinker.deadline=60",
)
NOTHING_TWICE = ("sample_calls", "trained_tokens", "optim_steps")


@dataclass(frozen=True)
class TinkerRun:
    """A run folder beside its prompt, and the server that its commands talk to."""

    server: TinkerLoopback
    folder: Path

    @property
    def prompt(self) -> Path:
        """The prompt's file."""
        return self.folder / "pirate.md"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "runs" / "pirate"

    def arguments(self, stage: str, *more: str) -> list[str]:
        """A stage's command line."""
        where = settings(
            f"model.name={self.server.model}",
            f"options.backends.tinker.base_url={self.server.url}",
            f"data.queries={self.folder / 'queries.txt'}",
        )
        folder = ["--run", str(self.run), "--profile", "tinker-local"]
        return [stage, str(self.prompt), *folder, *ARGUMENTS, *where, *settings(*more)]

    def do(self, stage: str, *more: str) -> Result:
        """Run a stage in this process."""
        return promptbake(*self.arguments(stage, *more))

    def start(self, stage: str, *more: str) -> Process:
        """Start a stage in a process of its own."""
        return Process(self.folder / "log", *self.arguments(stage, *more))

    def finish(self, stage: str, *more: str) -> str:
        """Run a stage, which must end well; what it said.

        Two held-out queries are too few for an interval that excludes 0, so `verify` exits with 1.
        """
        result = self.do(stage, *more)
        assert result.code == (1 if stage == "verify" else 0), result.err
        return result.err

    def weights(self) -> dict[str, torch.Tensor]:
        """What was baked, downloaded by `export`."""
        exported = self.folder / "exported"
        shutil.rmtree(exported, ignore_errors=True)
        result = promptbake(*self.arguments("export"), "--to", exported)
        assert result.code == 0, result.err
        return safetensors.torch.load_file(exported / "adapter_model.safetensors")

    def steps(self) -> list[int]:
        """The steps on record."""
        lines = (self.run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]


@dataclass(frozen=True)
class Undisturbed:
    """A run to compare others with: its data, what was baked, what it took."""

    model: Path
    data: Path
    weights: dict[str, torch.Tensor]
    meter: dict[str, int]
    said: str


@contextmanager
def tinker_run(folder: Path, model: Path, data: Path | None = None) -> Iterator[TinkerRun]:
    """A run without data, or with a copy of another's."""
    (folder / "pirate.md").write_text("Speak as a pirate, always.\n")
    queries = "".join(f"What is the colour of ship number {i}?\n" for i in range(QUERIES))
    (folder / "queries.txt").write_text(queries)
    if data is not None:
        shutil.copytree(data, folder / "runs" / "pirate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_API_KEY", KEY)
        patch.setenv("TINKER_TELEMETRY", "0")
        patch.delenv("TINKER_BASE_URL", raising=False)
        with TinkerLoopback(str(model), state=folder / "state") as server:
            yield TinkerRun(server, folder)


def bake_undisturbed(folder: Path) -> Undisturbed:
    """Data and bake of a run that nothing happens to."""
    model, data = save_tiny(folder / "model"), folder / "data"
    with tinker_run(folder, model) as run:
        run.finish("data")
        shutil.copytree(run.run, data)
        before = run.server.meter
        said = run.finish("bake")
        meter = spent(before, run.server.meter)
        return Undisturbed(model, data, run.weights(), meter, said)


def same_weights(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    """Whether two adapters are the same, bit for bit."""
    return actual.keys() == expected.keys() and all(
        torch.equal(actual[name], expected[name]) for name in expected
    )


def spent(before: Meter, after: Meter) -> dict[str, int]:
    """What the server did in between."""
    return {name: getattr(after, name) - getattr(before, name) for name in NOTHING_TWICE}
