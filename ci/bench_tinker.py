"""What a bake takes of Tinker, beside the reference recipe: metered by the loopback server.

`make bench-tinker` prints the table, writes runs/bench/tinker.json, and exits 1 where promptbake
misses a bar. Every job has a server of its own, so that none finds another's prefixes in a cache.
"""

from __future__ import annotations

import os

if __name__ == "__main__":  # before anything imports torch or the SDK
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ |= {"TINKER_TELEMETRY": "0", "TINKER_API_KEY": "tml-loopback"}

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import tinker
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from promptbake.costs import Usage
from promptbake.dataset.alignment import align_all
from promptbake.dataset.conversations import messages_to_json
from promptbake.dataset.queries import load_queries
from promptbake.distill.schedule import Schedule
from promptbake.documents.typed import read_json_lines
from promptbake.files import JsonLines, write_json
from promptbake.progress import Bar, SilentReporter
from promptbake.runs.generation import load_dataset
from promptbake.runs.session import Session, open_session
from promptbake.stages import bake, data
from promptbake.testing.tiny import save_tiny
from promptbake.types import Datum, Message
from promptbake_loopback.tinker import KEY, Meter, TinkerLoopback
from promptbake_loopback.tinker.meter import COUNTS
from promptbake_tinker.model import TinkerModel
from promptbake_tinker.prices import AS_OF, TABLE, Prices

PROMPT = Path(__file__).resolve().parents[1] / "prompts" / "yoda.md"
RESULT = Path("runs/bench/tinker.json")
PRICED = "Qwen/Qwen3-8B"
PRICES = Prices(*TABLE[PRICED], source=f"{PRICED}, {AS_OF}")
RESPONSE = "Long the road is, young one."
LENGTHS = range(20, 28)  # tokens of a response: a byte each, and one that ends the turn
REFERENCE, OURS = "reference recipe", "promptbake"
ARMS = {
    OURS: (),
    "tail=bucket": ("train.tail=bucket",),
    "per_token": ("options.backends.tinker.datum_layout=per_token",),
}
JOB, PREFLIGHT, CURVE = "job", "preflight", "held-out curve"
BARS = {"trained_tokens": 1 / 20, "scoring_calls": 1 / 4, "passes": 1 / 30}  # of the reference's
READ = ("prefill_tokens", "cached_prefill_tokens")
SAMPLING = frozenset({"sample_calls", "sampled_tokens", "saves", *READ})
Mark = tuple[Counter[str], float]  # counts by the Meter's names, and seconds


@dataclass(frozen=True)
class Job:
    """The reference recipe's job, which has 200 conversations: no ratio depends on how many."""

    conversations: int = 32
    held_out: int = 10
    epochs: int = 4
    batch_size: int = 16
    top_k: int = 20
    rank: int = 32
    lr: float = 1e-4


class Phases(SilentReporter):
    """A reporter that reads the meter and the clock where a bar begins and where it ends."""

    def __init__(self, server: TinkerLoopback) -> None:
        self._server, self._marks = server, dict[str, list[Mark]]()

    def mark(self, what: str) -> None:
        """Read both."""
        meter = self._server.meter
        counts = Counter({name: getattr(meter, name) for name in COUNTS})
        self._marks.setdefault(what, []).append((counts, time.monotonic()))

    @contextmanager
    def bar(self, what: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """No bar, but two marks."""
        self.mark(what)
        with super().bar(what, total, done) as bar:
            yield bar
        self.mark(what)

    def span(self, what: str, until: str | None = None) -> Mark:
        """Of what has that name first; or from its beginning to that of another."""
        (before, began), (after, ended) = self._marks[what][:2]
        if until is not None:
            after, ended = self._marks[until][0]
        return after - before, ended - began


def benchmark(job: Job, folder: Path) -> list[dict[str, Any]]:
    """A row for each part of each job; TINKER_API_KEY must be set, to anything that is a key."""
    save_tiny(folder / "tiny")
    queries = load_queries("builtin")[: job.conversations + job.held_out]
    if len(queries) < job.conversations + job.held_out:
        raise ValueError(f"{job}: there are {len(queries)} queries")
    with JsonLines(folder / "conversations.jsonl") as lines:
        for number, query in enumerate(queries):
            text = RESPONSE[: LENGTHS[number % len(LENGTHS)] - 2] + "."
            turns = (*query.messages, Message("assistant", text))
            lines.append({"id": query.id, "messages": messages_to_json(turns)})
    with _opened(job, folder, REFERENCE, ()) as (session, server, phases):
        rows = [_run_reference(job, session, server, phases)]
    for arm, settings in ARMS.items():
        with _opened(job, folder, arm, settings) as (session, _, phases):
            rows += _run_promptbake(arm, session, phases)
    return rows


@contextmanager
def _opened(
    job: Job, folder: Path, arm: str, settings: Sequence[str]
) -> Iterator[tuple[Session, TinkerLoopback, Phases]]:
    """A fresh server, and a session on it with the job's conversations."""
    with TinkerLoopback(str(folder / "tiny"), state=folder / arm / "state") as server:
        values = {
            "model.name": folder / "tiny",
            "data.provider": "files",
            "options.data_providers.files.path": folder / "conversations.jsonl",
            "data.held_out": job.held_out,
            "teacher.top_k": job.top_k,
            "train.backend": "tinker",
            "options.backends.tinker.renderer": "chat_template",
            "options.backends.tinker.max_grad_norm": 1.0,
            "options.backends.tinker.base_url": server.url,
            # The curve has its two ends only, and no state is saved: the reference does neither.
            **dict.fromkeys(("train.eval_every", "train.save_every"), 10**6),
        }
        names = ("epochs", "batch_size", "rank", "lr")
        values |= {f"train.{name}": getattr(job, name) for name in names}
        phases = Phases(server)
        session = open_session(
            PROMPT,
            profile="tinker-local",
            config_file=None,
            settings=[*(f"{key}={value}" for key, value in values.items()), *settings],
            run=folder / arm / "run",
            reporter=phases,
        )
        with session.stage_lock("data"):
            data.run(session)
        yield session, server, phases
        assert isinstance(session.base, TinkerModel)
        session.base.base.service.close()


def _run_promptbake(arm: str, session: Session, phases: Phases) -> list[dict[str, Any]]:
    """The job proper is the first teacher's pass, and what trains; the curve has all the rest."""
    phases.mark("run")
    with session.stage_lock("bake"):
        bake.run(session)
    phases.mark("run")
    (whole, lasted), (before, preparing) = phases.span("run"), phases.span("run", until="teacher")
    (teacher, asking), (loop, _) = phases.span("teacher"), phases.span("bake")
    training = Counter({name: loop[name] for name in COUNTS - SAMPLING})
    stepping = sum(line.get("seconds", 0.0) for line in read_json_lines(session.run.metrics))
    job, working = teacher + training, asking + stepping
    return [
        _row(arm, JOB, job, working),
        _row(arm, PREFLIGHT, before, preparing),
        _row(arm, CURVE, whole - before - job, lasted - preparing - working),
    ]


def _run_reference(
    job: Job, session: Session, server: TinkerLoopback, phases: Phases
) -> dict[str, Any]:
    datums = align_all(load_dataset(session).training, session.targets, session.base)
    with tinker.ServiceClient(base_url=server.url, api_key=KEY) as service:
        model = session.base.name
        teacher = service.create_sampling_client(base_model=model).result()
        student = service.create_lora_training_client(model, rank=job.rank, seed=0).result()
        phases.mark(JOB)
        reference_recipe(job, datums, teacher, student)
        phases.mark(JOB)
    return _row(REFERENCE, JOB, *phases.span(JOB))


def reference_recipe(
    job: Job,
    datums: Sequence[Datum],
    teacher: tinker.SamplingClient,
    student: tinker.TrainingClient,
) -> None:
    """Ask the teacher anew in each epoch; train on K datums a conversation by a custom loss."""
    schedule = Schedule(len(datums), job.batch_size, job.epochs, job.lr, seed=0)
    for step in range(schedule.steps):
        batch = [datums[index] for index in schedule.batch(step)]
        answers = [
            teacher.sample(
                tinker.ModelInput.from_ints(list(datum.teacher_ids)),
                1,
                tinker.SamplingParams(max_tokens=1),
                include_prompt_logprobs=True,
                topk_prompt_logprobs=job.top_k,
            )
            for datum in batch
        ]
        sent = list[tinker.Datum]()
        for datum, answer in zip(batch, answers, strict=True):
            top_k = answer.result().topk_prompt_logprobs
            assert top_k is not None
            sent += k_datums(datum, top_k)
        gradient = student.forward_backward_custom(sent, kl_over_top_k)
        stepped = student.optim_step(tinker.AdamParams(learning_rate=schedule.learning_rate(step)))
        gradient.result()
        stepped.result()


def k_datums(datum: Datum, top_k: Sequence[object]) -> list[tinker.Datum]:
    """K datums with (N,) targets: the k-th token at each response position, weighted by its p."""
    rows = torch.tensor(top_k[-datum.n_response :], dtype=torch.float64)  # [N, K, (id, logprob)]
    before = (0, 0, len(datum.student_ids) - 1 - datum.n_response, 0)
    ids = torch.nn.functional.pad(rows[:, :, 0].long(), before)
    weights = torch.nn.functional.pad(rows[:, :, 1].exp().float(), before)
    tokens = tinker.ModelInput.from_ints(list(datum.student_ids[:-1]))
    return [
        tinker.Datum(
            model_input=tokens,
            loss_fn_inputs={
                "target_tokens": tinker.TensorData.from_torch(ids_N.contiguous()),
                "weights": tinker.TensorData.from_torch(weights_N.contiguous()),
            },
        )
        for ids_N, weights_N in zip(ids.unbind(1), weights.unbind(1), strict=True)
    ]


def kl_over_top_k(
    sent: list[tinker.Datum], logprobs: list[Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """The sum of p (log p - log q) over the K; outside the response p is 0."""
    loss = torch.zeros(())
    for datum, q_N in zip(sent, logprobs, strict=True):
        p_N = datum.loss_fn_inputs["weights"].to_torch()
        loss = loss + (torch.special.xlogy(p_N, p_N) - p_N * q_N).sum()
    return loss, {}


def _row(arm: str, part: str, counted: Counter[str], seconds: float) -> dict[str, Any]:
    meter = Meter(**cast(Any, counted))
    usage = Usage(
        # A forward pass alone is taken for prefill, as in the plugin's own ledger.
        input_tokens=meter.prefill_tokens + meter.forward_tokens,
        cached_input_tokens=meter.cached_prefill_tokens,
        output_tokens=meter.sampled_tokens,
        train_tokens=meter.trained_tokens,
    )
    counts = {name: counted[name] for name in sorted(COUNTS)} | {"passes": meter.passes}
    counts["scoring_calls"] = counts.pop("sample_calls")  # in a job, all are the teacher's
    dollars = round(PRICES.priced(usage).dollars, 7)
    return {"arm": arm, "part": part, **counts, "seconds": round(seconds, 2), "dollars": dollars}


def compared(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ratios reference : promptbake of the jobs proper, and the bars."""
    jobs = {row["arm"]: row for row in rows if row["part"] == JOB}
    names = (*BARS, "prefill_tokens", "datums", "dollars", "seconds")
    ratios = {name: round(jobs[REFERENCE][name] / jobs[OURS][name], 3) for name in names}
    bars = {}
    for name, most in BARS.items():
        value = jobs[OURS][name] / jobs[REFERENCE][name]
        bars[name] = {"value": value, "max": most, "passed": value <= most}
    return {"ratios": ratios, "bars": bars}


def main(job: Job, file: Path) -> int:
    """Run the benchmark, print the table and write the file. Returns the exit status."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = benchmark(job, Path(folder))
    lengths = {"response_tokens": [LENGTHS[0], LENGTHS[-1]]}
    result = {
        "schema": 1,
        "job": asdict(job) | lengths | {"prompt": PROMPT.stem, "model": "tiny"},
        "prices": PRICES.source,
        "rows": rows,
        **compared(rows),
        "versions": {name: version(name) for name in ("promptbake", "tinker", "tinker-cookbook")},
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(file, result)
    show(result, Console(highlight=False, markup=False, emoji=False))
    return 0 if all(bar["passed"] for bar in result["bars"].values()) else 1


def show(result: dict[str, Any], out: Console) -> None:
    """Print the table, the ratios and the bars."""
    heads = {name: name.partition("_")[0] for name in (*BARS, *READ, "datums")}
    table = Table(box=None, pad_edge=False)
    for head in ("job", "part", *heads.values(), "seconds", "dollars"):
        table.add_column(head, justify="left" if head in ("job", "part") else "right")
    for row in result["rows"]:
        counts = [f"{row[name]:,}" for name in heads]
        numbers = (*counts, f"{row['seconds']:.2f}", f"{row['dollars']:.6f}")
        table.add_row(row["arm"] if row["part"] == JOB else "", row["part"], *numbers)
    out.width = max(out.width, 120)  # nothing is folded where there is no terminal
    out.print(table)
    for name, ratio in result["ratios"].items():
        bar, verdict = result["bars"].get(name), ""
        if bar:
            passed = "passed" if bar["passed"] else "FAILED"
            verdict = f"; bar {1 / bar['max']:g} or more: {passed}"
        out.print(f"{REFERENCE} : {OURS}, {name.replace('_', ' ')}: {ratio:g}{verdict}")
    shape = ", ".join(f"{name} {value}" for name, value in result["job"].items())
    out.print(f"{shape}; dollars as of {result['prices']}; {result['seconds']} seconds in all")


if __name__ == "__main__":
    raise SystemExit(main(Job(), RESULT))
