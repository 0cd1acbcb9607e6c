"""What the processes of the benchmark hand to each other, as JSON: jobs, tasks and outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from promptbake.documents.typed import OwnDocument

TARGET = 0.7  # of the gap closed: what the contestants race to
ENOUGH = 0.72  # where a contestant that trains on is stopped
NAMES = ("ours", "reference", "sdft", "sdft-defaults", "sft")
TRL = frozenset({"sdft", "sdft-defaults", "sft"})  # those that run in TRL's environment
Ended = Literal["enough", "finished", "limit"]
PhaseName = Literal["sampling", "teacher", "training"]


class Job(OwnDocument):
    """One run of one contestant.

    Attributes:
        contestant: One of NAMES, or `prepare` or `machine`.
        prompt: The prompt's file.
        seed: Of the data, the LoRA and the order of the batches.
        folder: What all contestants of this prompt and seed share: runs/bench/PROMPT-SEED.
        limit: Seconds on the contestant's clock after which it is stopped.
        settings: section.key=value lines on top of the profile `local`.
    """

    contestant: str
    prompt: str
    seed: int
    folder: str
    limit: float
    settings: tuple[str, ...] = ()

    @property
    def shared(self) -> Path:
        """The folder that the contestants of this prompt and seed share."""
        return Path(self.folder)

    @property
    def prepared(self) -> Path:
        """The run folder with the held-out set."""
        return self.shared / "prepared"

    @property
    def task_file(self) -> Path:
        """Where `prepare` leaves the task."""
        return self.shared / "task.json"

    @property
    def outcome_file(self) -> Path:
        """Where the contestant leaves its outcome."""
        return self.shared / f"{self.contestant}.json"

    @property
    def log_file(self) -> Path:
        """What the contestant says beside its points."""
        return self.shared / f"{self.contestant}.log"


class HeldOutRow(OwnDocument):
    """A held-out conversation: token ids without and with the prompt, both with the response."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    n_response: int


class Request(OwnDocument):
    """A response that is to be sampled: the query's token ids without and with the prompt."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    temperature: float


class Task(OwnDocument):
    """What all contestants of a prompt and a seed are given, in token ids.

    Attributes:
        model: The model's folder.
        prompt_tokens: Of the system message with its examples.
        stop_ids: Tokens that end a response.
        requests: The responses to train on.
        held_out: What the KL is measured on.
        held_out_digest: SHA-256 of the held-out file.
        rank: Of every contestant's LoRA, as are alpha, lr, batch_size and max_tokens.
        epochs: Of promptbake's bake.
        top_k: The teacher's.
        layer_weights: Weights that a token is multiplied by in all layers together.
        head_weights: Weights of the output layer.
    """

    model: str
    prompt_tokens: int
    stop_ids: tuple[int, ...]
    requests: tuple[Request, ...]
    held_out: tuple[HeldOutRow, ...]
    held_out_digest: str
    rank: int
    alpha: float
    lr: float
    batch_size: int
    max_tokens: int
    epochs: int
    top_k: int
    layer_weights: int
    head_weights: int

    def flops(self, phase: PhaseName, trained_share: float = 1.0) -> float:
        """Multiplications and additions that a response token takes at least, by the weights alone.

        Attention, the LoRA and all tokens of prompts and queries count nothing: they are the
        same work for every contestant, or work that could be saved.

        Args:
            phase: Training takes a backward pass more, without the gradients of frozen weights.
            trained_share: Of the layers, from the top, that a gradient passes.
        """
        flops = 2.0 * (self.layer_weights + self.head_weights)
        if phase == "training":
            flops += 2.0 * (self.layer_weights * trained_share + self.head_weights)
        return flops


class Point(OwnDocument):
    """A point of a curve: seconds on the contestant's clock, steps, share of the gap closed."""

    seconds: float
    step: int
    gap_closed: float


class Phase(OwnDocument):
    """Work of one kind: response tokens, seconds, and the FLOPs that these tokens take at least."""

    tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0


class Outcome(OwnDocument):
    """What a contestant did.

    Attributes:
        base_kl: Of the untrained model, nats a token; the same for all contestants but rounding.
        peak_bytes: The most memory that its process held.
        seconds: On its clock when it ended.
        code: Of the sources that it depends on.
        date: When it ended, UTC.
    """

    contestant: str
    prompt: str
    seed: int
    base_kl: float
    points: tuple[Point, ...]
    phases: dict[PhaseName, Phase]
    seconds: float
    ended: Ended
    peak_bytes: int
    limit: float
    held_out_digest: str
    settings: tuple[str, ...]
    code: str = ""
    date: str = ""


class Machine(OwnDocument):
    """What ran it: cores, the fastest float32 matrix multiply in GFLOP/s, versions."""

    cores: int
    processor: str
    matmul_gflops: float
    versions: dict[str, str]
