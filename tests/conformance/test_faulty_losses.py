"""Faulty losses, and the test of LossSuite that catches each."""

from __future__ import annotations

import math
from typing import Any

import torch
from faulty_suites import fault, suite_for, suites_for
from torch import Tensor

from promptbake.testing import LossSuite, WorkedExample


class Good:
    """KL(teacher || student)."""

    support = "teacher"
    linear = True

    def __call__(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        return self.total(self.terms(student, teacher, weights))

    def terms(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        return weights * teacher.exp() * (teacher - student)

    def total(self, terms: Tensor) -> Tensor:
        return terms.sum(dim=1)


class Reverse(Good):
    """KL(student || teacher), on the student's own tokens."""

    support = "student"
    linear = False

    def terms(self, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        return weights * student.exp() * (student - teacher)


def on(change: Any) -> Any:
    """The good terms of arguments that were changed first."""
    return lambda self, *arguments: Good.terms(self, *change(*arguments))


def after(change: Any) -> Any:
    """The good terms, after a change of what the whole process shares."""

    def terms(self: Good, *arguments: Tensor) -> Tensor:
        result = Good.terms(self, *arguments)
        change()
        return result

    return terms


def change_the_weights(student: Tensor, teacher: Tensor, weights: Tensor) -> Any:
    terms = Good().terms(student, teacher, weights)
    weights.mul_(2)
    return terms


def centred(terms: Tensor) -> Tensor:
    nats = terms.sum(dim=1)
    return nats - 0.01 * (nats - nats.mean()) * (len(nats) > 1)


BITS = {"total": lambda self, terms: terms.sum(dim=1) / math.log(2)}
EXAMPLE = WorkedExample(teacher=(0.5, 0.5), student=(0.25, 0.75), nats=0.5 * math.log(4 / 3))
REVERSE = WorkedExample(EXAMPLE.student, EXAMPLE.teacher, EXAMPLE.nats)
IN_BITS = WorkedExample(EXAMPLE.teacher, EXAMPLE.student, EXAMPLE.nats / math.log(2))
WORKED = "test_it_agrees_with_the_worked_example"
SHAPE = "test_it_returns_one_number_per_position"
WEIGHTS = "test_a_token_counts_by_its_importance_weight"
DECLARED = "test_it_declares_its_support_and_whether_it_is_linear"
GRADIENT = "test_its_gradient_is_that_of_its_value"
DTYPE = "test_it_keeps_the_dtype[torch.float32]"
FAULTS = [
    fault("bits", WORKED, **BITS),
    fault("bits_like_its_example", "test_a_linear_divergence_is_in_nats",
          flags={"worked_example": IN_BITS}, **BITS),
    fault("no_example", WORKED, flags={"worked_example": None}),
    fault("transposed", SHAPE, total=lambda self, terms: terms.sum(dim=0)),
    fault("mean_over_positions", SHAPE, total=lambda self, terms: terms.sum(dim=1).mean()),
    fault("mean_over_support", WORKED, total=lambda self, terms: terms.mean(dim=1)),
    fault("ignores_weights", WEIGHTS, terms=on(lambda s, t, w: (s, t, torch.ones_like(w)))),
    fault("squares_weights", WEIGHTS, terms=on(lambda s, t, w: (s, t, w**2))),
    fault("wrong_sign", "test_it_is_positive_elsewhere",
          total=lambda self, terms: -terms.sum(dim=1)),
    fault("swapped", WORKED, base=Reverse),
    fault("detached", GRADIENT, terms=on(lambda s, t, w: (s.detach(), t, w))),
    fault("half_detached", GRADIENT, linear=False,
          terms=lambda self, s, t, w: w * s.exp().detach() * (s - t)),
    fault("drops_last_token", "test_every_token_counts_and_their_order_does_not",
          total=lambda self, terms: terms[:, : max(terms.shape[1] - 1, 1)].sum(dim=1)),
    fault("claims_to_be_linear", "test_linear_is_what_it_says", base=Reverse, linear=True),
    fault("hides_that_it_is_linear", "test_linear_is_what_it_says", linear=False),
    fault("neither_linear_nor_not", DECLARED, linear=None),
    fault("unknown_support", DECLARED, support="columns"),
    fault("changes_its_input", "test_it_leaves_its_input_unchanged",
          terms=lambda self, *arguments: change_the_weights(*arguments)),
    fault("noisy", "test_it_is_a_pure_function",
          total=lambda self, terms: terms.sum(dim=1) * (1 + 1e-3 * torch.rand(1))),
    fault("draws_numbers", "test_it_leaves_torchs_random_state_unchanged",
          terms=after(lambda: torch.rand(1))),
    fault("half_precision", DTYPE, terms=on(lambda s, t, w: (s.half(), t.half(), w.half()))),
    fault("leaves_logarithms", "test_it_is_finite_at_tiny_probabilities",
          terms=lambda self, s, t, w: w * t.exp() * (t.exp() / s.exp()).log()),
    fault("renormalizes", "test_it_is_a_sum_over_its_support",
          terms=on(lambda s, t, w: (s.log_softmax(dim=1), t, w))),
    fault("clamps_the_student", "test_no_term_is_cut_off",
          terms=on(lambda s, t, w: (s.clamp(min=-8), t, w))),
    fault("turns_gradients_off", DTYPE, terms=after(lambda: torch.set_grad_enabled(False))),
    fault("changes_the_default_dtype", DTYPE,
          terms=after(lambda: torch.set_default_dtype(torch.float64))),
    fault("centred_over_the_batch", "test_a_position_does_not_depend_on_the_others",
          total=lambda self, terms: centred(terms)),
    fault("not_zero_at_the_teacher", "test_it_is_zero_where_the_student_is_the_teacher",
          terms=lambda self, s, t, w: -w * t.exp() * s),
    fault("away_from_the_teacher", "test_its_minimum_is_the_teacher",
          total=lambda self, terms: -terms.sum(dim=1)),
    fault("fails_in_the_tail", "test_it_works_with_every_treatment_of_the_tail[bucket]",
          total=lambda self, terms: terms.sum(dim=1) / (terms.shape[1] != 6)),
]  # fmt: skip
globals().update(suites_for(LossSuite, "loss", Good, FAULTS, worked_example=EXAMPLE))
TestGoodReverse = suite_for(LossSuite, "loss", Reverse, worked_example=REVERSE)
