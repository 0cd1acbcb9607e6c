"""The training part of the conformance suite for backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch

from promptbake.errors import BakeError
from promptbake.interfaces import Backend, Model, Objective
from promptbake.testing.backends.training_cases import (
    LINEAR,
    NONLINEAR,
    RANK,
    SLACK,
    ByValue,
    LessonTests,
    apart,
    examples,
    mean_loss,
    nats,
    pair,
    scored,
    standing,
    train,
)
from promptbake.types import Datums, Example

STEPS = 5
SHORT, LONG = 2, 6  # response tokens; the one divides the other


class TrainerTests(LessonTests):
    """Of `backend.new_lora` and the trainer that it gives."""

    def test_a_fresh_lora_answers_as_the_base_model(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        found = standing(self._fresh(backend, base), lesson)
        self._check_same(found, scored(base, lesson), "a LoRA's B starts as zeros")

    def test_the_loss_is_the_mean_over_the_batchs_response_tokens(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        trainer = self._fresh(backend, base)
        standing(trainer, lesson)  # what may be kept of it is void after the step
        train(trainer, lesson, self.lr, LINEAR)
        student = trainer.snapshot().result()
        expected = [mean_loss(student, lesson, objective) for objective in (LINEAR, NONLINEAR)]
        for objective, wanted in zip((LINEAR, NONLINEAR), expected, strict=True):
            found = trainer.forward_backward(lesson, objective).result()
            assert isinstance(found, float), f"the loss is a {type(found).__name__}: a float"
            assert abs(found - wanted) <= 2 * self.tolerance, (
                f"the loss is {found:.4f}, and {wanted:.4f} by the student's own "
                f"log-probabilities{_symptom(found, student, lesson, objective)}"
            )

    def test_training_lowers_the_loss(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        for objective in (LINEAR, NONLINEAR):
            losses = train(self._fresh(backend, base), lesson, self.lr, objective, STEPS)
            assert losses[-1] < losses[0] - max(0.05 * losses[0], 2 * self.tolerance), (
                f"with lr = {self.lr:g} the losses are {_line(losses)}: look at the sign of the "
                "gradient, or set `lr` to one at which your trainer learns"
            )

    def test_nothing_moves_without_a_step(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        trainer = self._fresh(backend, base)
        trainer.preflight(k=0, draws=0)
        losses = [trainer.forward_backward(lesson, LINEAR).result() for _ in range(2)]
        assert abs(losses[1] - losses[0]) <= self.tolerance, (
            f"the losses are {_line(losses)} without a step between: only `optim_step` steps"
        )
        self._check_same(
            standing(trainer, lesson), scored(base, lesson), "only `optim_step` moves the weights"
        )

    def test_a_step_goes_as_far_as_the_learning_rate_says(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        trainer, start = self._fresh(backend, base), scored(base, lesson)
        train(trainer, lesson, 0.0, LINEAR)
        self._check_same(standing(trainer, lesson), start, "a step of lr = 0 moves nothing")
        short, long = self._fresh(backend, base), self._fresh(backend, base)
        train(short, lesson, self.lr / 10, LINEAR)
        train(long, lesson, self.lr, LINEAR)
        moved = self._moved(long, base, lesson)
        ahead = apart(standing(short, lesson), start) / moved
        assert ahead < 0.5, (
            f"with a tenth of the learning rate a step goes {ahead:.0%} as far: `optim_step` is "
            "given the rate of each step"
        )

    def test_the_gradient_gathers_until_a_step(self, backend: Backend, base: Model) -> None:
        one, other = pair(base, SHORT, SHORT)
        apart_, together = self._fresh(backend, base), self._fresh(backend, base)
        for example in (one, other):
            apart_.forward_backward([example], NONLINEAR).result()
        apart_.optim_step(self.lr).result()
        train(together, [one, other], self.lr, NONLINEAR)
        self._check_same_step(
            apart_,
            together,
            base,
            [one, other],
            "two calls of `forward_backward` and one with both batches lead to other students: "
            "gradients add up until `optim_step`",
        )

    def test_every_response_token_pulls_alike(self, backend: Backend, base: Model) -> None:
        short, long = pair(base, SHORT, LONG)
        for objective in (LINEAR, NONLINEAR):
            one_by_one, together = self._fresh(backend, base), self._fresh(backend, base)
            one_by_one.forward_backward([short], objective).result()
            for _ in range(LONG // SHORT):
                one_by_one.forward_backward([long], objective).result()
            one_by_one.optim_step(self.lr).result()
            train(together, [short, long], self.lr, objective)
            self._check_same_step(
                one_by_one,
                together,
                base,
                [short, long],
                "a batch's gradient is not that of the mean over its response tokens: look for a "
                "mean over rows, a sum, and padding that counts",
            )

    def test_a_linear_loss_trains_alike_by_its_weights_and_by_its_value(
        self, backend: Backend, base: Model
    ) -> None:
        one, other = pair(base, LONG, LONG)
        first, second = self._fresh(backend, base), self._fresh(backend, base)
        for trainer, by_weights, by_value in ((first, one, other), (second, other, one)):
            trainer.forward_backward([by_weights], LINEAR).result()
            trainer.forward_backward([by_value], ByValue(LINEAR)).result()
            trainer.optim_step(self.lr).result()
        self._check_same_step(
            first,
            second,
            base,
            [one, other],
            "a linear objective has another gradient by `weights` than by `nats`: divide both by "
            "the batch's response tokens, and mind the sign",
        )

    def test_a_step_clears_the_gradient(self, backend: Backend, base: Model) -> None:
        batch = examples(base)
        trainer = self._fresh(backend, base)
        train(trainer, batch, 0.0, ByValue(LINEAR))
        (before,) = train(trainer, batch, self.lr, ByValue(LINEAR, sign=-1.0))
        after = trainer.forward_backward(batch, ByValue(LINEAR, sign=-1.0)).result()
        # AdamW goes on with a share of the first gradient, which the second outweighs.
        assert after <= before + self.tolerance, (
            f"after a step of lr = 0 on a loss, a step on its opposite takes that from "
            f"{before:.4f} to {after:.4f}: `optim_step` clears the gradient"
        )

    def test_the_base_model_stays_as_it_is(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        before = scored(base, lesson)
        trainer = self._fresh(backend, base)
        train(trainer, lesson, self.lr, LINEAR, 2)
        trainer.forward_backward(lesson, LINEAR).result()
        self._check_same(
            scored(base, lesson),
            before,
            "the base model changes while a LoRA trains: switch the LoRA off where it answers",
        )
        self._moved(trainer, base, lesson)

    def test_two_loras_train_side_by_side(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        alone = self._fresh(backend, base)
        expected = train(alone, lesson, self.lr, LINEAR, 3)
        left, right = self._fresh(backend, base), self._fresh(backend, base, seed=2)
        losses = []
        for _ in range(3):
            losses += train(left, lesson, self.lr, LINEAR)
            train(right, lesson, self.lr, ByValue(LINEAR, sign=-1.0))
        assert max(map(_distance, losses, expected)) <= 2 * self.tolerance, (
            f"beside another LoRA the losses are {_line(losses)}, alone {_line(expected)}: with "
            "the same seed, expected the same"
        )

    def test_the_same_seed_starts_the_same_lora(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        one, again, other = (self._fresh(backend, base, seed=seed) for seed in (1, 1, 2))
        for trainer in (one, again, other):
            train(trainer, lesson, self.lr, LINEAR, 2)
        moved = self._moved(one, base, lesson)
        away = apart(standing(again, lesson), standing(one, lesson))
        assert away <= SLACK * moved + self.tolerance, (
            f"after two steps, two LoRAs of the same seed are {away:.2g} nats apart: a LoRA's "
            "random weights come from its seed alone"
        )
        away = apart(standing(other, lesson), standing(one, lesson))
        assert away > 0.01 * moved, (
            "two LoRAs of different seeds are the same: the seed is for A's random weights"
        )

    def test_what_is_asked_is_done_in_order_whenever_it_is_waited_for(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        patient, hasty = self._fresh(backend, base), self._fresh(backend, base)
        expected = train(patient, lesson, self.lr, LINEAR, 3)
        sent = [
            (hasty.forward_backward(lesson, LINEAR), hasty.optim_step(self.lr)) for _ in range(3)
        ]
        snapshot = hasty.snapshot()
        found = [loss.result() for loss, _ in reversed(sent)][::-1]
        assert max(map(_distance, found, expected)) <= 2 * self.tolerance, (
            f"sent before the last one is waited for, steps have the losses {_line(found)}, and "
            f"{_line(expected)} one by one"
        )
        assert [loss.result() for loss, _ in sent] == found, "`result` gives another value again"
        assert all(stepped.result() is None for _, stepped in sent), "a step's result is None"
        self._check_same(
            scored(snapshot.result(), lesson),
            standing(patient, lesson),
            "a snapshot is of the steps that were asked for before it",
        )

    def test_it_says_how_many_steps_it_wants_and_what_it_found(
        self, backend: Backend, base: Model
    ) -> None:
        trainer = self._fresh(backend, base)
        count = trainer.steps_in_flight
        assert count >= 1, f"`steps_in_flight` is {count}: 1 where nothing is gained by more"
        for k, draws in ((0, 0), (3, 0), (3, 2)):
            lines = trainer.preflight(k=k, draws=draws)
            assert not isinstance(lines, str), f"`preflight` returns {lines!r}: a sequence of lines"
            assert all(isinstance(line, str) for line in lines), f"`preflight` returns {lines}"

    def test_datums_are_refused_or_train_alike(
        self, backend: Backend, base: Model, lesson: list[Example]
    ) -> None:
        for datums in get_args(Datums):
            try:
                trainer = backend.new_lora(base, rank=RANK, seed=1, datums=datums)
                trainer.preflight(k=3, draws=0)
            except BakeError:
                assert datums != "one", "the default, train.datums = 'one', is refused"
                continue
            for objective in (LINEAR, NONLINEAR):
                found = trainer.forward_backward(lesson, objective).result()
                expected = mean_loss(base, lesson, objective)
                assert abs(found - expected) <= 2 * self.tolerance, (
                    f"with train.datums = {datums!r} the loss is {found:.4f}, and {expected:.4f} "
                    "was expected: either way it is the mean over the response tokens"
                )


def _symptom(found: float, student: Model, batch: list[Example], objective: Objective) -> str:
    """What the loss would be by a likely mistake, where that is what it is."""
    rows = nats(student, batch, objective)
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
        if math.isclose(found, value, rel_tol=1e-3):
            return f": it is {name}"
    return (
        ": look at which positions the columns are gathered from, and whether a snapshot is the "
        "student as it stands"
    )


def _line(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)


def _distance(one: float, other: float) -> float:
    return abs(one - other)
