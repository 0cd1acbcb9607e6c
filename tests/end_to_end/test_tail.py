"""The tail matters: with equal steps, a loss that keeps it ends nearer to the prompted model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from promptbake.costs import NoBudget
from promptbake.dataset.alignment import align_all
from promptbake.dataset.queries import load_queries, requests_for, split
from promptbake.dataset.sampling import sample_responses
from promptbake.distill.batches import StoredBatches
from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.distill.loop import steps
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.evaluate.statistics import gap_closed
from promptbake.interfaces import GenerationJob
from promptbake.types import BakeTarget, Datum, Example, Prompt, Tail
from promptbake_losses.divergences import ForwardKL
from promptbake_mock.tiny import NAME, tiny_backend

PROMPT = Prompt("pirate", "Answer like a pirate who has lost his map, his ship and his parrot.")
TARGET = BakeTarget("", PROMPT)
TOP_K = 5


@dataclass(frozen=True)
class Material:
    training: tuple[Datum, ...]
    held_out: tuple[Datum, ...]


@pytest.fixture(scope="module")
def material() -> Material:
    parts = split(load_queries("builtin")[:50], held_out=10, seed=0)
    base = tiny_backend().open_model(NAME)
    job = GenerationJob(
        PROMPT, requests_for(parts, [1.0]), frozenset(), 24, 0, lambda: base, NoBudget()
    )
    kept_out = {query.id for query in parts.held_out}
    conversations = list(sample_responses(job))
    return Material(
        align_all([one for one in conversations if one.query_id not in kept_out], [TARGET], base),
        align_all([one for one in conversations if one.query_id in kept_out], [TARGET], base),
    )


def gap_after_a_bake(material: Material, tail: Tail) -> float:
    """The full vocabulary's held-out gap that 20 steps close, with K = 5."""
    backend = tiny_backend()
    base = backend.open_model(NAME)
    objective = TailedLoss(ForwardKL(), tail)
    seeds = range(len(material.training))
    teacher = [datum.teacher for datum in material.training]
    answers = base.top_k(teacher, k=TOP_K, draws=4, seeds=seeds)
    examples = [
        Example(datum, objective.support(datum, scores))
        for datum, (_, scores) in zip(material.training, answers, strict=True)
    ]
    held_out_kl = HeldOutKL(base, material.held_out)
    assert held_out_kl.kind == "full"
    student = backend.new_lora(base, rank=8, seed=0)
    schedule = Schedule(len(examples), batch_size=8, epochs=4, lr=1e-2, seed=0)
    for _ in steps(student, StoredBatches(examples, schedule), objective, schedule):
        pass
    return gap_closed(
        held_out_kl.unprompted(base), held_out_kl.unprompted(student.snapshot().result())
    )


def test_a_kept_tail_closes_more_of_the_gap_than_a_dropped_one(material: Material) -> None:
    gaps = {tail: gap_after_a_bake(material, tail) for tail in ("sampled", "bucket", "drop")}
    assert gaps["sampled"] > gaps["drop"] + 0.05, gaps
    assert gaps["bucket"] > gaps["drop"] + 0.05, gaps
    assert gaps["sampled"] > 0.6, gaps
