"""How near the data stage comes to what an endpoint's latency allows.

`make bench-data` prints the table, writes runs/bench/data.json, and exits 1 where promptbake misses
the bar. The endpoint is a process of its own. Imports and the client's construction are not timed,
the connections are; the best repeat counts, as other work on the machine only ever adds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from promptbake.costs import NoBudget
from promptbake.errors import BakeError
from promptbake.files import write_json
from promptbake.interfaces import GenerationJob, Model
from promptbake.types import Conversation, GenerationRequest, Message, Prompt, Query
from promptbake_loopback.openai import KEY
from promptbake_openai import ChatProvider, Endpoint

RESULT = Path("runs/bench/data.json")
MODEL, KEY_NAME = "tiny-chat", "PROMPTBAKE_BENCH_KEY"
BAR = 1.15  # times the bound


@dataclass(frozen=True)
class Shape:
    """What is asked for."""

    conversations: int = 200
    in_flight: int = 20
    latency: float = 0.2  # seconds
    repeats: int = 3

    @property
    def bound(self) -> float:
        """Seconds that no client can go below."""
        return self.conversations * self.latency / self.in_flight


def measure(shape: Shape) -> list[float]:
    """Seconds of each repeat. Raises BakeError where a conversation does not arrive."""
    os.environ[KEY_NAME] = KEY
    with served(shape) as url:
        return [once(shape, url, repeat) for repeat in range(shape.repeats)]


@contextmanager
def served(shape: Shape) -> Iterator[str]:
    """The address of an endpoint of its own process, for as long as the block lasts."""
    command = [sys.executable, "-P", "-m", "promptbake_loopback", "openai", "--exit-with-parent"]
    with subprocess.Popen(
        [*command, "--model", MODEL, "--latency", str(shape.latency)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def once(shape: Shape, url: str, repeat: int) -> float:
    """Seconds that `generate` takes, by a provider with connections of its own."""
    endpoint = Endpoint(
        MODEL,
        url,
        KEY_NAME,
        timeout=60.0,
        max_retries=0,
        connections=shape.in_flight,
    )
    provider = ChatProvider(
        [endpoint], lambda: None, concurrency=shape.in_flight, allow_truncated=False
    )
    job = job_of(shape, seed=repeat)
    _ = endpoint.client  # built before the clock starts
    began = time.perf_counter()
    found = list(provider.generate(job))
    seconds = time.perf_counter() - began
    arrived = {each.id for each in found if isinstance(each, Conversation)}
    if len(found) != shape.conversations or arrived != {request.id for request in job.requests}:
        raise BakeError(f"{len(arrived)} of {shape.conversations} conversations arrived")
    return seconds


def job_of(shape: Shape, seed: int) -> GenerationJob:
    """As many requests; another seed's are new to the endpoint."""
    plan = tuple(
        GenerationRequest(
            f"q{number}", Query(f"q{number}", (Message("user", f"Question {number}"),)), 1.0
        )
        for number in range(shape.conversations)
    )
    prompt = Prompt("bench", "Be brief.")
    return GenerationJob(prompt, plan, frozenset(), 64, seed, no_model, NoBudget())


def no_model() -> Model:
    """No model is needed."""
    raise AssertionError("the endpoint answers")


def compared(shape: Shape, seconds: list[float]) -> dict[str, Any]:
    """The seconds beside the bound, and the bar."""
    best, middle = min(seconds), median(seconds)
    return {
        "seconds": {"best": best, "median": middle, "all": seconds},
        "bound": shape.bound,
        "ratio": {"best": best / shape.bound, "median": middle / shape.bound},
        "bar": {"max": BAR, "of": "best", "passed": best <= BAR * shape.bound},
    }


def main(shape: Shape, file: Path) -> int:
    """Run the benchmark, print the table and write the file. Returns the exit status."""
    result = {
        "schema": 1,
        "shape": asdict(shape),
        **compared(shape, measure(shape)),
        "versions": {name: version(name) for name in ("promptbake", "openai", "httpx2")},
    }
    write_json(file, result)
    show(result, Console(highlight=False, markup=False, emoji=False))
    return 0 if result["bar"]["passed"] else 1


def show(result: dict[str, Any], out: Console) -> None:
    """Print the table and the bar."""
    shape, bar = result["shape"], result["bar"]
    table = Table(box=None, pad_edge=False)
    for head in ("repeat", "seconds", "bound", "ratio"):
        table.add_column(head, justify="left" if head == "repeat" else "right")
    for name in ("best", "median"):
        numbers = (result["seconds"][name], result["bound"], result["ratio"][name])
        table.add_row(name, *(f"{number:.3f}" for number in numbers))
    out.width = max(out.width, 80)  # nothing is folded where there is no terminal
    out.print(table)
    verdict = "passed" if bar["passed"] else "FAILED"
    out.print(f"the best takes at most {bar['max']:g} times the bound: {verdict}")
    out.print(
        f"{shape['conversations']} conversations, {shape['in_flight']} in flight, "
        f"{shape['latency']:g} s latency, {shape['repeats']} repeats"
    )


if __name__ == "__main__":
    raise SystemExit(main(Shape(), RESULT))
