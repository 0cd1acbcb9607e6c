"""Faulty trainers of a backend: their losses, gradients and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from faulty_suites import suite_for, suites_for
from toy_backend import (
    Late,
    Toy,
    ToySuite,
    Trainer,
    add_to_the_weights,
    after,
    backend_with,
    faults,
)

from promptbake.interfaces import Objective
from promptbake.types import Example, ImmediateResult, LossSupport

Batch = Sequence[Example]


@dataclass(frozen=True)
class Scaled:
    """An objective times a factor of each example's."""

    objective: Objective
    factor: Callable[[LossSupport], float]

    def nats(self, student: Any, support: LossSupport) -> Any:
        return self.factor(support) * self.objective.nats(student, support)


class ByGradient(Trainer):
    """Takes the objective's gradient as an engine without torch's autograd would."""

    def forward_backward(self, batch: Batch, objective: Objective) -> Any:
        count, total = response_tokens(batch), 0.0
        for example in batch:
            scores = self.student.scores(example.datum.student).gather(1, example.support.ids)
            nats, gradient = objective.loss_and_gradient(scores, example.support)
            scores.backward(gradient / count)
            total += nats.sum().item()
        return ImmediateResult(total / count)


def response_tokens(batch: Batch) -> int:
    return sum(example.datum.n_response for example in batch)


# --- losses and gradients


def scaled(factor: Callable[[Batch, LossSupport], float]) -> dict[str, Any]:
    """The loss and its gradient are multiplied by a factor of the batch and of each example."""

    def forward_backward(self: Any, batch: Batch, objective: Objective) -> Any:
        wrong = Scaled(objective, lambda support: factor(batch, support))
        return Trainer.forward_backward(self, batch, wrong)

    return {"forward_backward": forward_backward}


def of_examples(change: Callable[[Example], Example]) -> dict[str, Any]:
    """Trains on other examples."""

    def forward_backward(self: Any, batch: Batch, objective: Objective) -> Any:
        return Trainer.forward_backward(self, list(map(change, batch)), objective)

    return {"forward_backward": forward_backward}


def reweighed(change: Callable[[float], float]) -> dict[str, Any]:
    """Trains on examples of other weights."""
    return of_examples(
        lambda each: replace(
            each, support=replace(each.support, weight=change(each.support.weight))
        )
    )


def gradient_of(wrong: Callable[..., Any]) -> Callable[..., Any]:
    """The right loss, with the gradient of a wrong way."""

    def forward_backward(self: Any, batch: Batch, objective: Objective) -> Any:
        before = gradients(self)
        loss = Trainer.forward_backward(self, batch, objective)
        restore(self, before)
        wrong(self, batch, objective)
        return loss

    return forward_backward


def gradients(trainer: Any) -> list[Any]:
    grads = [weight.grad for weight in trainer.weights.values()]
    return [None if grad is None else grad.clone() for grad in grads]


def restore(trainer: Any, grads: list[Any]) -> None:
    for weight, gradient in zip(trainer.weights.values(), grads, strict=True):
        weight.grad = gradient


def climb(self: Any, batch: Batch, objective: Objective) -> Any:
    loss = scaled(lambda *_: -1.0)["forward_backward"](self, batch, objective)
    return ImmediateResult(-loss.result())


def sum_where_there_are_weights(self: Any, batch: Batch, objective: Objective) -> Any:
    right = objective.weights(batch[0].support) is None
    wrong = Scaled(objective, lambda support: 1 if right else response_tokens(batch))
    return Trainer.forward_backward(self, batch, wrong)


def clear_at_each_call(self: Any, batch: Batch, objective: Objective) -> Any:
    self.optimizer.zero_grad()
    return Trainer.forward_backward(self, batch, objective)


def keep_the_gradient(self: Any, lr: float) -> Any:
    before = gradients(self)
    stepped = Trainer.optim_step(self, lr)
    restore(self, before)
    return stepped


MEAN_OF_ROWS = scaled(lambda batch, s: response_tokens(batch) / len(batch) / len(s.ids))
UNWEIGHTED = reweighed(lambda weight: 1.0)
LOSSES = [
    *faults(
        "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
        means_the_rows_means=MEAN_OF_ROWS,
        sums=scaled(lambda batch, support: response_tokens(batch)),
        counts_the_prompts_tokens=scaled(
            lambda batch, support: (
                response_tokens(batch) / sum(len(each.datum.student_ids) for each in batch)
            )
        ),
        reads_the_teachers_prompt=of_examples(
            lambda each: replace(
                each, datum=replace(each.datum, student_ids=each.datum.teacher_ids)
            )
        ),
        gives_a_tensor={
            "forward_backward": after(
                Trainer.forward_backward,
                lambda self, loss: ImmediateResult(torch.tensor(loss.result())),
            )
        },
    ),
    *faults("test_training_lowers_the_loss", climbs={"forward_backward": climb}),
    *faults(
        "test_every_response_token_counts_alike",
        has_the_gradient_of_the_rows_means={
            "forward_backward": gradient_of(MEAN_OF_ROWS["forward_backward"])
        },
    ),
    *faults(
        "test_an_example_counts_by_its_weight",
        forgets_the_weight=UNWEIGHTED,
        weighs_twice=reweighed(lambda weight: weight**2),
        has_the_gradient_without_the_weight={
            "forward_backward": gradient_of(UNWEIGHTED["forward_backward"])
        },
    ),
    *faults(
        "test_a_linear_loss_trains_alike_by_its_weights_and_by_its_value",
        sums_where_there_are_weights={"forward_backward": gradient_of(sum_where_there_are_weights)},
    ),
    *faults(
        "test_a_step_clears_the_gradient", keeps_the_gradient={"optim_step": keep_the_gradient}
    ),
    *faults(
        "test_gradients_add_up_until_a_step",
        clears_at_each_call={"forward_backward": clear_at_each_call},
    ),
]

# --- steps


def at_rate(change: Callable[[float], float]) -> dict[str, Any]:
    """Steps at other learning rates."""
    return {"optim_step": lambda self, lr: Trainer.optim_step(self, change(lr))}


def step_unasked(self: Any, loss: Any) -> Any:
    self.optim_step(0.1)
    return loss


def work_when_waited_for(self: Any, batch: Batch, objective: Objective) -> Any:
    Trainer.forward_backward(self, batch, objective)

    def loss() -> Any:
        before = gradients(self)
        late = Trainer.forward_backward(self, batch, objective).result()
        restore(self, before)
        return late

    return Late(loss)


def remember_the_first_student(self: Any) -> Any:
    delta = self.student.delta().detach()
    self.first = getattr(self, "first", self.base.with_lora(lambda: delta))
    return ImmediateResult(self.first)


STEPS = [
    *faults(
        "test_a_step_goes_as_far_as_the_learning_rate_says",
        ignores_the_learning_rate=at_rate(lambda lr: 0.1),
        takes_one_rate_for_all_but_none=at_rate(lambda lr: 0.1 if lr else 0.0),
    ),
    *faults(
        "test_nothing_moves_without_a_step",
        steps_unasked={"forward_backward": after(Trainer.forward_backward, step_unasked)},
        trains_in_the_preflight={
            "preflight": lambda self, *, k, draws: add_to_the_weights(self, 0.01)
        },
    ),
    *faults("test_training_lowers_the_loss", never_steps=at_rate(lambda lr: 0.0)),
    *faults(
        "test_requests_are_carried_out_in_order_whenever_they_are_waited_for",
        works_when_waited_for={"forward_backward": work_when_waited_for},
    ),
    *faults(
        "test_it_says_how_many_steps_it_wants_and_what_will_differ",
        says_one_line={"preflight": lambda self, *, k, draws: "the service draws no tokens"},
        wants_no_steps={"steps_in_flight": 0},
    ),
    *faults(
        "test_the_loss_is_the_mean_over_the_batchs_response_tokens",
        takes_the_base_model_for_the_student={"snapshot": lambda self: ImmediateResult(self.base)},
        remembers_the_first_student={"snapshot": remember_the_first_student},
    ),
]


FAULTS = [replace(fault, base=Trainer) for fault in LOSSES + STEPS]

globals().update(suites_for(ToySuite, "backend", Toy, FAULTS, backend_with))
TestGood = suite_for(ToySuite, "backend", lambda: backend_with(ByGradient))
