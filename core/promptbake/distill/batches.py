"""Batches: the stored examples in the schedule's order, and conversations scored on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from promptbake.dataset.alignment import align
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.distill.target_store import StoredTeacher
from promptbake.interfaces import Model, Trainer
from promptbake.seeds import derive
from promptbake.types import BakeTarget, Conversation, Datum, Example, TeacherLogprobs


@dataclass(frozen=True)
class StoredBatches:
    """Off policy: the prompted model's responses, scored before training began."""

    examples: Sequence[Example]
    schedule: Schedule

    def next_batch(self, step: int, student: Trainer) -> Sequence[Example]:
        """The examples that the schedule gives a step, counted from 0."""
        return [self.examples[index] for index in self.schedule.batch(step)]


def score_conversations(
    conversations: Sequence[Conversation],
    targets: Sequence[BakeTarget],
    objective: TailedLoss,
    teacher: StoredTeacher,
    student: Model | None,
    tail_draws: int,
) -> list[Example]:
    """Conversations as examples, in their order.

    Args:
        conversations: Each with the name of its target.
        targets: What is learned.
        objective: Says which tokens the loss is evaluated on.
        teacher: Scores them.
        student: The student as it stands, where the loss is evaluated on its own top tokens.
        tail_draws: As in `train.tail_draws`.
    """
    by_name = {target.name: target for target in targets}
    model = teacher.open_model()
    datums = [align(each, by_name[each.target], model) for each in conversations]
    draws = objective.draws(tail_draws)
    scores: Sequence[TeacherLogprobs | None]
    if objective.loss.support == "response":
        scores = [None] * len(datums)
    elif objective.loss.support == "student":
        if student is None:
            raise ValueError("the loss is evaluated on the student's tokens: give the student")
        scores = _on_student_tokens(datums, model, student, teacher.k, draws, teacher.seed)
    else:
        scores = list(teacher.scores(datums, draws))
    return [
        Example(datum, objective.support(datum, score, by_name[datum.target].weight))
        for datum, score in zip(datums, scores, strict=True)
    ]


def _on_student_tokens(
    datums: Sequence[Datum], model: Model, student: Model, k: int, draws: int, seed: int
) -> list[TeacherLogprobs]:
    """The student's own top K and draws, with the teacher's log-probabilities of those tokens."""
    seeds = [derive(seed, "student", datum.conversation_id) for datum in datums]
    spans = [datum.student for datum in datums]
    tops = [top for _, top in sorted(student.top_k(spans, k=k, draws=draws, seeds=seeds))]
    ids = [torch.cat([top.ids, top.drawn_ids], dim=1) for top in tops]
    taught = model.logprobs([datum.teacher for datum in datums], ids)
    return [
        replace(top, logprobs=row[:, : top.ids.shape[1]], drawn_logprobs=row[:, top.ids.shape[1] :])
        for top, row in zip(tops, taught, strict=True)
    ]
