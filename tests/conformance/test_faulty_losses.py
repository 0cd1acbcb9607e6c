"""Faulty losses, and the test of LossSuite that catches each."""

from __future__ import annotations

import math
from typing import Any

import torch
from faulty_suites import edited, suite_for, suites_for

from promptbake.testing import LossSuite, WorkedExample

SOURCE = '''
class Toy:
    """KL(teacher || student)."""

    support, linear = "teacher", True

    def __call__(self, student, teacher, weights):
        terms = weights * teacher.exp() * (teacher - student)
        return terms.sum(dim=1)
'''


def loss(*edits: str) -> Any:
    return edited(SOURCE, edits, math=math, torch=torch)["Toy"]()


TERMS, TOTAL = "weights * teacher.exp() * (teacher - student)", "terms.sum(dim=1)"
REVERSE = TERMS, "weights * student.exp() * (student - teacher)"
REVERSE_KL = (*REVERSE, '"teacher", True', '"student", False')
BITS = TOTAL, "terms.sum(dim=1) / math.log(2)"


def first(statement: str) -> tuple[str, str]:
    """Does something before the terms are computed."""
    return "terms = ", f"{statement}\n        terms = "


def last(statement: str) -> tuple[str, str]:
    return f"return {TOTAL}", f"{statement}\n        return {TOTAL}"


EXAMPLE = WorkedExample(teacher=(0.5, 0.5), student=(0.25, 0.75), nats=0.5 * math.log(4 / 3))
REVERSED = WorkedExample(EXAMPLE.student, EXAMPLE.teacher, EXAMPLE.nats)
IN_BITS = WorkedExample(EXAMPLE.teacher, EXAMPLE.student, EXAMPLE.nats / math.log(2))
SYMMETRIC = WorkedExample((0.25, 0.75), (0.75, 0.25), nats=0.5 * math.log(3))
FAULTS = {
    "test_it_agrees_with_the_worked_example": {
        "bits": BITS,
        "no_example": ({"worked_example": None},),
        "an_example_that_may_be_swapped": ({"worked_example": SYMMETRIC},),  # a warning
        "mean_over_support": (TOTAL, "terms.mean(dim=1)"),
        "swapped": REVERSE_KL,
    },
    "test_a_linear_divergence_is_in_nats": {
        "bits_like_its_example": (*BITS, {"worked_example": IN_BITS}),
    },
    "test_it_returns_one_number_per_position": {
        "transposed": (TOTAL, "terms.sum(dim=0)"),
        "mean_over_positions": (TOTAL, "terms.sum(dim=1).mean()"),
    },
    "test_a_token_counts_by_its_importance_weight": {
        "ignores_weights": (TERMS, "teacher.exp() * (teacher - student)"),
        "squares_weights": (TERMS, f"weights * {TERMS}"),
    },
    "test_it_is_positive_elsewhere": {"wrong_sign": (TOTAL, "-terms.sum(dim=1)")},
    "test_its_gradient_is_that_of_its_value": {
        "detached": (TERMS, f"{TERMS[:-1]}.detach())"),
        "half_detached": (
            TERMS, "weights * student.exp().detach() * (student - teacher)", "True", "False"),
    },
    "test_every_token_counts_and_their_order_does_not": {
        "drops_last_token": (TOTAL, "terms[:, : max(terms.shape[1] - 1, 1)].sum(dim=1)"),
    },
    "test_linear_is_what_it_says": {
        "claims_to_be_linear": (*REVERSE, '"teacher", True', '"student", True'),
        "hides_that_it_is_linear": ("True", "False"),
    },
    "test_it_declares_its_support_and_whether_it_is_linear": {
        "neither_linear_nor_not": ("True", "None"),
        "unknown_support": ('"teacher"', '"columns"'),
    },
    "test_it_leaves_its_input_unchanged": {"changes_its_input": last("weights.mul_(2)")},
    "test_it_is_a_pure_function": {
        "noisy": (TOTAL, "terms.sum(dim=1) * (1 + 1e-3 * torch.rand(1))"),
    },
    "test_it_leaves_torchs_random_state_unchanged": {"draws_numbers": last("torch.rand(1)")},
    "test_it_keeps_the_dtype[torch.float32]": {
        "half_precision": (TERMS, f"({TERMS}).half()"),
        "turns_gradients_off": last("torch.set_grad_enabled(False)"),
        "changes_the_default_dtype": last("torch.set_default_dtype(torch.float64)"),
    },
    "test_it_is_finite_at_tiny_probabilities": {
        "leaves_logarithms": (
            TERMS, "weights * teacher.exp() * (teacher.exp() / student.exp()).log()"),
    },
    "test_it_is_a_sum_over_its_support": {
        "renormalizes": first("student = student.log_softmax(dim=1)"),
    },
    "test_no_term_is_cut_off": {"clamps_the_student": first("student = student.clamp(min=-8)")},
    "test_a_position_does_not_depend_on_the_others": {
        "centred_over_the_batch": (
            TOTAL, "terms.sum(dim=1) - 0.01 * (terms.sum(dim=1) - terms.sum(dim=1).mean())"),
    },
    "test_it_is_zero_where_the_student_is_the_teacher": {
        "not_zero_at_the_teacher": (TERMS, "weights * teacher.exp() * -student"),
    },
    "test_its_minimum_is_the_teacher": {"away_from_the_teacher": (TOTAL, "-terms.sum(dim=1)")},
    "test_it_works_with_every_treatment_of_the_tail[bucket]": {
        "fails_in_the_tail": (TOTAL, "terms.sum(dim=1) / (terms.shape[1] != 6)"),
    },
}  # fmt: skip

globals().update(suites_for(LossSuite, "loss", loss, FAULTS, worked_example=EXAMPLE))
TestGood = suite_for(LossSuite, "loss", loss, worked_example=EXAMPLE)
TestGoodReverse = suite_for(LossSuite, "loss", lambda: loss(*REVERSE_KL), worked_example=REVERSED)
