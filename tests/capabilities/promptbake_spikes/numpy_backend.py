"""A backend that computes its gradients in numpy: the template's toy model, without autograd.

The hidden states do not depend on the LoRA; logits are `hidden @ (head + (B @ A).T)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from promptbake_bag import DOWN, UP, Bag, ByteModel, ByteTrainer

from promptbake import Checkpoint, Example, ImmediateResult, Model, Objective, Pending, Trainer


class NumpyTrainer(ByteTrainer):
    """Gradients by hand behind `Objective.loss_and_gradient`."""

    def forward_backward(self, batch: Sequence[Example], objective: Objective) -> Pending[float]:
        """Back from the log-probabilities' gradient to A and B, by the chain rule."""
        count = sum(example.datum.n_response for example in batch)
        A, B = (self.weights[name].detach().double().numpy() for name in (DOWN, UP))
        gradients: dict[str, Any] = {DOWN: 0.0, UP: 0.0}
        total = 0.0
        for example in batch:
            span, ids = example.datum.student, example.support.ids
            scores = self.student.scores(span).detach()
            nats, gradient = objective.loss_and_gradient(scores.gather(1, ids), example.support)
            total += float(nats.sum())
            weights = gradient.double().numpy() / count  # dL / d log q, [N, C]
            logits = -scores.double().exp().numpy() * weights.sum(axis=1, keepdims=True)
            np.add.at(logits, (np.arange(len(ids))[:, None], ids.numpy()), weights)  # [N, V]
            head = hidden(self.base, span.tokens)[-span.n_response :].T @ logits  # [CHANNELS, V]
            gradients[UP] += head.T @ A.T
            gradients[DOWN] += B.T @ head.T
        for name, weight in self.weights.items():
            before = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = before + torch.from_numpy(gradients[name]).float()
        return ImmediateResult(total / count)


def hidden(model: ByteModel, tokens: Sequence[int]) -> Any:
    """The states [N, CHANNELS] that predict all tokens but the first."""
    read = model.embedding.double().numpy()[list(tokens[:-1])]
    return 0.2 * read + 1.5 * read.cumsum(axis=0) / np.arange(1, len(read) + 1)[:, None]


class NumpyBackend(Bag):
    """The template's backend, with such a trainer."""

    def new_lora(
        self, base: Model, *, rank: int, seed: int, start: Checkpoint | None = None
    ) -> Trainer:
        """A LoRA that is trained without autograd."""
        assert isinstance(base, ByteModel)
        return NumpyTrainer(base, rank, seed, start)
