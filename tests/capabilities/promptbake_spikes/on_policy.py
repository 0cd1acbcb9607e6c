"""On policy: the student writes, the teacher scores; and a loss on the student's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from promptbake import BatchContext, Conversation, Example, Message, Model, Trainer, derive


class OnPolicy:
    """Each step trains on responses that the student has just sampled."""

    def __init__(self, context: BatchContext) -> None:
        self._context = context

    def next_batch(self, step: int, student: Trainer) -> Sequence[Example]:
        """Responses to the next queries, sampled from the student as it stands."""
        model = student.snapshot().result()
        return self._context.score(self._sample(model, step), model)

    def _sample(self, model: Model, step: int) -> list[Conversation]:
        context = self._context
        target = context.targets[0]
        queries = context.queries[target.name]
        first = step * context.batch_size
        asked = [queries[(first + row) % len(queries)] for row in range(context.batch_size)]
        completions = dict(
            model.sample(
                [model.renderer.prompt(query.messages, target.student.system) for query in asked],
                max_tokens=context.max_tokens,
                temperatures=[1.0] * len(asked),
                seeds=[derive(context.seed, "on policy", step, query.id) for query in asked],
            )
        )
        return [
            Conversation(
                f"{query.id}@step-{step}",
                query.id,
                (*query.messages, Message("assistant", model.renderer.text(response.tokens))),
                response.complete,
                {"temperature": 1.0},
                target.name,
            )
            for query, response in ((asked[row], completions[row]) for row in range(len(asked)))
        ]


class StudentReverseKL:
    """sum q (log q - log p), over the tokens that the student itself finds likely."""

    support: Literal["student"] = "student"
    linear = False

    def __call__(self, student: Tensor, teacher: Tensor, importance_weights: Tensor) -> Tensor:
        """Nats [N]."""
        return (importance_weights * student.exp() * (student - teacher)).sum(dim=1)
