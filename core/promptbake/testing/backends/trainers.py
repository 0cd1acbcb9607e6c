"""The training part of the conformance suite for backends."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from promptbake.interfaces import Model, Objective
from promptbake.testing.backends.training_cases import (
    LINEAR,
    NONLINEAR,
    OPPOSITE,
    STEPS,
    Training,
    TrainingTests,
    WithoutWeights,
    distance,
    mean_loss,
    nats_by_example,
    pair,
    train,
    weighted,
)
from promptbake.types import Example

SHORT, LONG = 2, 6  # response tokens; the one divides the other
BOTH = (LINEAR, NONLINEAR)


class TrainerTests(TrainingTests):
    """Of `backend.new_lora` and the trainer that it gives."""

    def test_a_fresh_lora_answers_as_the_base_model(self, training: Training) -> None:
        logprobs, expected = training.of_student(training.fresh()), training.of(training.base)
        self._check_same(logprobs, expected, "a LoRA's B starts as zeros")

    def test_the_loss_is_the_mean_over_the_batchs_response_tokens(self, training: Training) -> None:
        trainer, batch = training.fresh(), training.batch
        training.of_student(trainer)  # what may be cached of it is void after the step
        training.train(trainer)
        student = trainer.snapshot().result()
        for objective in BOTH:
            expected = mean_loss(student, batch, objective)
            loss = trainer.forward_backward(batch, objective).result()
            assert isinstance(loss, float), f"the loss is a {type(loss).__name__}: a float"
            assert abs(loss - expected) <= 2 * self.tolerance, (
                f"the loss is {loss:.4f}, and {expected:.4f} by the student's own "
                f"log-probabilities{_diagnosis(loss, student, batch, objective)}"
            )

    def test_training_lowers_the_loss(self, training: Training) -> None:
        for objective in BOTH:
            losses = training.train(training.fresh(), objective, STEPS + 1)
            assert losses[-1] < losses[0] - max(0.05 * losses[0], 2 * self.tolerance), (
                f"with lr = {self.lr:g} the losses are {_line(losses)}: look at the sign of the "
                "gradient, or set `lr` to one at which your trainer learns"
            )

    def test_nothing_moves_without_a_step(self, training: Training) -> None:
        trainer = training.fresh()
        trainer.preflight(k=0, draws=0)
        losses = [trainer.forward_backward(training.batch, LINEAR).result() for _ in range(2)]
        assert abs(losses[1] - losses[0]) <= self.tolerance, (
            f"the losses are {_line(losses)} without a step between: only `optim_step` steps"
        )
        logprobs, expected = training.of_student(trainer), training.of(training.base)
        self._check_same(logprobs, expected, "only `optim_step` moves the weights")

    def test_a_step_goes_as_far_as_the_learning_rate_says(self, training: Training) -> None:
        none, short, long = (training.fresh() for _ in range(3))
        for trainer, lr in ((none, 0.0), (short, self.lr / 10), (long, self.lr)):
            train(trainer, training.batch, lr, LINEAR)
        start = training.of(training.base)
        self._check_same(training.of_student(none), start, "a step of lr = 0 moves nothing")
        ratio = distance(training.of_student(short), start) / training.distance_from_base(long)
        assert ratio < 0.5, (
            f"with a tenth of the learning rate a step goes {ratio:.0%} as far: `optim_step` is "
            "given the rate of each step"
        )

    def test_gradients_add_up_until_a_step(self, training: Training) -> None:
        one, other = pair(training.base, SHORT, SHORT)
        training.check_same_student(
            training.after_a_step(NONLINEAR, [one], [other]),
            training.after_a_step(NONLINEAR, [one, other]),
            "two calls of `forward_backward` and one with both batches lead to other students: "
            "gradients add up until `optim_step`",
        )

    def test_every_response_token_counts_alike(self, training: Training) -> None:
        short, long = pair(training.base, SHORT, LONG)
        for objective in BOTH:
            training.check_same_student(
                training.after_a_step(objective, [short], *[[long]] * (LONG // SHORT)),
                training.after_a_step(objective, [short, long]),
                "a batch's gradient is not that of the mean over its response tokens: look for a "
                "mean over rows, a sum, and padding that counts",
            )

    def test_an_example_counts_by_its_weight(self, training: Training) -> None:
        one, other = pair(training.base, SHORT, SHORT)
        batch = [weighted(one, 3.0), other]
        for objective in BOTH:
            expected = mean_loss(training.base, batch, objective)
            loss = training.fresh().forward_backward(batch, objective).result()
            assert abs(loss - expected) <= 2 * self.tolerance, (
                f"the loss of examples with other weights is {loss:.4f}, expected {expected:.4f}: "
                "hand the objective each example's whole support, and weigh nothing again"
            )
            training.check_same_student(
                training.after_a_step(objective, [weighted(one, 0.0), other]),
                training.after_a_step(objective, [other]),
                "an example of weight 0 changes the gradient",
            )

    def test_a_linear_loss_trains_alike_by_its_weights_and_by_its_value(
        self, training: Training
    ) -> None:
        one, other = pair(training.base, LONG, LONG)
        trainers = training.fresh(), training.fresh()
        for trainer, by_weights, by_value in zip(trainers, (one, other), (other, one), strict=True):
            trainer.forward_backward([by_weights], LINEAR).result()
            trainer.forward_backward([by_value], WithoutWeights(LINEAR)).result()
            trainer.optim_step(self.lr).result()
        training.check_same_student(
            *trainers,
            "a linear objective has another gradient by `weights` than by `nats`: divide both by "
            "the batch's response tokens, and mind the sign",
        )

    def test_a_step_clears_the_gradient(self, training: Training) -> None:
        trainer, batch = training.fresh(), training.batch
        train(trainer, batch, 0.0, WithoutWeights(LINEAR))
        (before,) = training.train(trainer, OPPOSITE)
        after = trainer.forward_backward(batch, OPPOSITE).result()
        # AdamW goes on with a share of the first gradient, which the second outweighs.
        assert after <= before + self.tolerance, (
            f"after a step of lr = 0 on a loss, a step on its opposite takes that from "
            f"{before:.4f} to {after:.4f}: `optim_step` clears the gradient"
        )

    def test_the_base_model_stays_as_it_is(self, training: Training) -> None:
        before = training.of(training.base)
        trainer = training.trained()
        trainer.forward_backward(training.batch, LINEAR).result()
        self._check_same(
            training.of(training.base),
            before,
            "the base model changes while a LoRA trains: switch the LoRA off where it answers",
        )
        training.distance_from_base(trainer)

    def test_two_loras_train_side_by_side(self, training: Training) -> None:
        expected = training.train(training.fresh(), steps=STEPS)
        left, right = training.fresh(), training.fresh(seed=2)
        losses = []
        for _ in range(STEPS):
            losses += training.train(left)
            training.train(right, OPPOSITE)
        assert _furthest(losses, expected) <= 2 * self.tolerance, (
            f"beside another LoRA the losses are {_line(losses)}, alone {_line(expected)}: with "
            "the same seed, expected the same"
        )

    def test_the_same_seed_starts_the_same_lora(self, training: Training) -> None:
        one, again, other = (training.trained(steps=2, seed=seed) for seed in (1, 1, 2))
        problem = "after two steps, two LoRAs of the same seed differ: seed their random weights"
        training.check_same_student(again, one, problem)
        nats = distance(training.of_student(other), training.of_student(one))
        assert nats > 0.01 * training.distance_from_base(one), (
            "two LoRAs of different seeds are the same: the seed is for A's random weights"
        )

    def test_requests_are_carried_out_in_order_whenever_they_are_waited_for(
        self, training: Training
    ) -> None:
        waiting, sending = training.fresh(), training.fresh()
        expected = training.train(waiting, steps=STEPS)
        sent = [
            (sending.forward_backward(training.batch, LINEAR), sending.optim_step(self.lr))
            for _ in range(STEPS)
        ]
        snapshot = sending.snapshot()
        losses = [loss.result() for loss, _ in reversed(sent)][::-1]
        assert _furthest(losses, expected) <= 2 * self.tolerance, (
            f"sent before the last one is waited for, steps have the losses {_line(losses)}, and "
            f"{_line(expected)} one by one"
        )
        assert [loss.result() for loss, _ in sent] == losses, "`result` gives another value again"
        assert all(stepped.result() is None for _, stepped in sent), "a step's result is None"
        self._check_same(
            training.of(snapshot.result()),
            training.of_student(waiting),
            "a snapshot is of the steps that were requested before it",
        )

    def test_it_says_how_many_steps_it_wants_and_what_will_differ(self, training: Training) -> None:
        trainer = training.fresh()
        count = trainer.steps_in_flight
        assert count >= 1, f"`steps_in_flight` is {count}: 1 where nothing is gained by more"
        for k, draws in ((0, 0), (3, 0), (3, 2)):
            lines = trainer.preflight(k=k, draws=draws)
            assert not isinstance(lines, str), f"`preflight` returns {lines!r}: a sequence of lines"
            assert all(isinstance(line, str) for line in lines), f"`preflight` returns {lines}"


def _diagnosis(loss: float, student: Model, batch: list[Example], objective: Objective) -> str:
    """The likely mistake whose loss this would be, if any."""
    rows = nats_by_example(student, batch, objective)
    total = torch.cat(rows).sum().item()
    mistakes = {
        "the mean of the rows' means": sum(row.mean().item() for row in rows) / len(rows),
        "a sum over the tokens": total,
        "a sum over the tokens by the rows": total / len(rows),
        "a mean over the prompt's tokens too": total
        / sum(len(example.datum.student_ids) for example in batch),
        "in bits": torch.cat(rows).mean().item() / math.log(2),
    }
    for name, value in mistakes.items():
        if math.isclose(loss, value, rel_tol=1e-3):
            return f": it is {name}"
    return (
        ": look at which positions the support is gathered from, and whether a snapshot is the "
        "student as it stands"
    )


def _line(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)


def _furthest(losses: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(losses, expected, strict=True))
