"""Faulty trainers of a backend: their losses, gradients, steps and states, and how they start."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from faulty_suites import Fault, suite_for, suites_for
from toy_backend import UP, Toy, ToySuite, Trainer, after, backend_with, faults, passing, toy

from promptbake.interfaces import Objective
from promptbake.types import Example, ImmediateResult, LossSupport

COUNT = itertools.count()
Batch = Sequence[Example]


@dataclass(frozen=True)
class Scaled:
    """An objective times a factor of each example's."""

    objective: Objective
    factor: Callable[[LossSupport], float]

    def nats(self, student: Any, support: LossSupport) -> Any:
        return self.factor(support) * self.objective.nats(student, support)


@dataclass(frozen=True)
class Late:
    """A result that is worked out when it is waited for."""

    result: Callable[[], Any]


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


def add_to_the_weights(trainer: Any, much: float) -> Sequence[str]:
    with torch.no_grad():
        for weight in trainer.weights.values():
            weight.add_(much * torch.randn(weight.shape))
    return ()


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

# --- LoRAs


def with_seed(change: Callable[[int], int]) -> dict[str, Any]:
    """Starts by another seed."""

    def start(self: Any, base: Any, rank: int, seed: int, *rest: Any) -> None:
        Trainer.__init__(self, base, rank, change(seed), *rest)

    return {"__init__": start}


def start_somewhere(self: Any, *how: Any) -> None:
    Trainer.__init__(self, *how)
    add_to_the_weights(self, 0.02)


def train_the_base_model(self: Any, base: Any, **how: Any) -> Any:
    trainer = Toy.new_lora(self, base, **how)
    base.delta = lambda: trainer.student.delta().detach()
    return trainer


def train_one_lora_for_all(self: Any, base: Any, **how: Any) -> Any:
    """A second LoRA takes the first one's place."""
    trainer = Toy.new_lora(self, base, **how)
    if hasattr(self, "last"):
        vars(self.last).update(vars(trainer))
    self.last = trainer
    return trainer


LORAS = [
    *faults(
        "test_a_fresh_lora_answers_as_the_base_model",
        starts_somewhere={"__init__": start_somewhere},
    ),
    *faults(
        "test_the_same_seed_starts_the_same_lora",
        starts_without_a_seed=with_seed(lambda seed: next(COUNT)),
        starts_by_one_seed=with_seed(lambda seed: 0),
    ),
    Fault(
        "trains_the_base_model",
        "test_the_base_model_stays_as_it_is",
        {"new_lora": train_the_base_model},
        base=Toy,
    ),
    Fault(
        "trains_one_lora_for_all",
        "test_two_loras_train_side_by_side",
        {"new_lora": train_one_lora_for_all},
        base=Toy,
    ),
]

# --- states


def losing(change: Callable[[Any], object]) -> dict[str, Any]:
    """Loads a state, then changes each weight's in the optimizer."""

    def load_state(self: Any, folder: Path) -> None:
        Trainer.load_state(self, folder)
        for moments in self.optimizer.state.values():
            change(moments)

    return {"load_state": load_state}


def load_the_moments_alone(self: Any, folder: Path) -> None:
    self.optimizer.load_state_dict(torch.load(folder / toy.MOMENTS, weights_only=True))


def saving(change: Callable[[dict[str, bytes]], Any]) -> dict[str, Any]:
    """Saves other files."""
    return {
        "save_state": after(
            Trainer.save_state, lambda self, state: ImmediateResult(change(state.result()))
        )
    }


STATES = [
    *faults(
        "test_training_resumes_as_if_it_had_not_stopped",
        forgets_the_moments=losing(lambda moments: moments.clear()),
        forgets_the_second_moment=losing(lambda moments: moments["exp_avg_sq"].zero_()),
        counts_steps_from_zero=losing(lambda moments: moments["step"].zero_()),
    ),
    *faults(
        "test_a_state_is_of_the_moment_at_which_it_was_requested",
        forgets_the_weights={"load_state": load_the_moments_alone},
        starts_again={"load_state": lambda self, folder: None},
        saves_when_waited_for={
            "save_state": lambda self, step: Late(lambda: Trainer.save_state(self, step).result())
        },
    ),
    *faults(
        "test_a_states_files_can_be_written",
        saves_into_a_folder=saving(lambda state: {f"step/{name}": state[name] for name in state}),
        saves_text=saving(lambda state: state | {"step.txt": "3"}),
        saves_nothing=saving(lambda state: {}),
    ),
]

# --- starting from an earlier bake


def starting(change: Callable[[Any], None]) -> dict[str, Any]:
    """A LoRA that starts from an earlier bake is changed."""

    def new_lora(self: Any, base: Any, *, start: Any = None, **how: Any) -> Any:
        trainer = Toy.new_lora(self, base, start=start, **how)
        if start is not None:
            change(trainer)
        return trainer

    return {"new_lora": new_lora}


def freeze(trainer: Any) -> None:
    """The weights that are loaded are not those that are trained."""
    weights = {name: weight.detach().clone() for name, weight in trainer.weights.items()}
    trainer.student.delta = lambda: toy._delta(weights) + 0 * trainer.weights[UP].sum()


def save_the_change_alone(trainer: Any) -> None:
    earlier, save = trainer.weights[UP].detach().clone(), trainer.save_adapter

    def save_adapter(folder: Path) -> Any:
        checkpoint = save(folder)
        weights = trainer.weights | {UP: trainer.weights[UP] - earlier}
        (folder / toy.WEIGHTS).write_bytes(toy._bytes(weights))
        return checkpoint

    trainer.save_adapter = save_adapter


def train_in_the_earlier_bakes_folder(
    self: Any, base: Any, *, start: Any = None, **how: Any
) -> Any:
    trainer = Toy.new_lora(self, base, start=start, **how)
    step = trainer.optim_step

    def optim_step(lr: float) -> Any:
        stepped = step(lr)
        trainer.save_adapter(Path(start.uri))
        return stepped

    if start is not None:
        trainer.optim_step = optim_step
    return trainer


def refuse_nothing(self: Any, base: Any, *, rank: int, seed: int, start: Any = None) -> Any:
    try:
        return Toy.new_lora(self, base, rank=rank, seed=seed, start=start)
    except toy.BakeError:
        return Toy.new_lora(self, base, rank=rank, seed=seed)


def fail_by_an_error_of_torch(self: Any, base: Any, *, start: Any = None, **how: Any) -> Any:
    try:
        return Toy.new_lora(self, base, start=start, **how)
    except toy.BakeError as error:
        raise RuntimeError("size mismatch for lora_A") from error


STARTS = [
    *faults(
        "test_a_lora_starts_as_an_earlier_bake_and_trains_on",
        ignores_the_start={"new_lora": passing(Toy.new_lora, start=lambda start: None)},
        trains_nothing_from_a_start_on=starting(freeze),
        saves_the_change_alone=starting(save_the_change_alone),
        trains_in_the_earlier_bakes_folder={"new_lora": train_in_the_earlier_bakes_folder},
    ),
    *faults(
        "test_an_unfit_checkpoint_is_no_start",
        starts_afresh_where_it_cannot={"new_lora": refuse_nothing},
        fails_by_an_error_of_torch={"new_lora": fail_by_an_error_of_torch},
    ),
    Fault(
        "says_that_it_starts_from_nothing",
        "test_starting_from_a_checkpoint_is_refused",
        flags={"starts_from_checkpoint": False},
    ),
]
FAULTS = [
    *(replace(fault, base=fault.base or Trainer) for fault in LOSSES + STEPS + LORAS + STATES),
    *STARTS,
]

globals().update(suites_for(ToySuite, "backend", Toy, FAULTS, backend_with))
TestGood = suite_for(ToySuite, "backend", lambda: backend_with(ByGradient))
