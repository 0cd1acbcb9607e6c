"""Faulty losses. Run by test_faulty_plugins.py, which expects each to be caught."""

from __future__ import annotations

import math

import torch
from faulty_suites import suites_for
from torch import Tensor

from promptbake.testing import LossSuite, Worked


class Good:
    """KL(teacher || student)."""

    targets = "teacher"
    linear = True

    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return self.terms(student, teacher, measure).sum(dim=1)

    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return measure * teacher.exp() * (teacher - student)


class Bits(Good):
    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().__call__(student, teacher, measure) / math.log(2)


class BitsThatAgreeWithTheirExample(Bits):
    pass


class Transposed(Good):
    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return self.terms(student, teacher, measure).sum(dim=0)


class MeanOverThePositions(Good):
    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().__call__(student, teacher, measure).mean()


class MeanOverTheColumns(Good):
    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return self.terms(student, teacher, measure).mean(dim=1)


class IgnoresTheMeasure(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return teacher.exp() * (teacher - student)


class MeasureBySquare(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return measure**2 * teacher.exp() * (teacher - student)


class WrongSign(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return -super().terms(student, teacher, measure)


class Swapped(Good):
    linear = False

    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return measure * student.exp() * (student - teacher)


class Detached(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().terms(student.detach(), teacher, measure)


class HalfDetached(Good):
    linear = False

    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return measure * student.exp().detach() * (student - teacher)


class DropsTheLastColumn(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().terms(student, teacher, measure)[:, : max(student.shape[1] - 1, 1)]


class ClaimsToBeLinear(Swapped):
    linear = True


class NeitherLinearNorNot(Good):
    linear = None  # type: ignore[assignment]


class UnknownTargets(Good):
    targets = "student"


class ChangesItsInput(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        term = (teacher - student) * measure
        measure.mul_(teacher.exp())
        return term * teacher.exp()


class Noisy(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().terms(student, teacher, measure) * (1 + 1e-3 * torch.rand(1))


class HalfPrecision(Good):
    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().__call__(student.half(), teacher.half(), measure.half())


class LeavesTheLogarithm(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        p, q = teacher.exp(), student.exp()
        return measure * p * (p / q).log()


class Renormalises(Good):
    linear = False

    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().terms(student.log_softmax(dim=1), teacher, measure)


class ClampsTheStudent(Good):
    linear = False

    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return super().terms(student.clamp(min=-8), teacher, measure)


class TurnsGradientsOff(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        found = super().terms(student, teacher, measure)
        torch.set_grad_enabled(False)
        return found


class ChangesTheDefaultType(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().terms(student, teacher, measure)


class CentredOverTheBatch(Good):
    def __call__(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        found = super().__call__(student, teacher, measure)
        return found - 0.01 * (found - found.mean()) * (len(found) > 1)


class NotZeroAtTheTeacher(Good):
    def terms(self, student: Tensor, teacher: Tensor, measure: Tensor) -> Tensor:
        return -measure * teacher.exp() * student


EXAMPLE = Worked(teacher=(0.5, 0.5), student=(0.25, 0.75), nats=0.5 * math.log(4 / 3))
SPOILT = {
    Bits: "test_it_agrees_with_the_case_worked_by_hand",
    Transposed: "test_it_gives_one_number_for_each_position",
    MeanOverThePositions: "test_it_gives_one_number_for_each_position",
    MeanOverTheColumns: "test_it_agrees_with_the_case_worked_by_hand",
    IgnoresTheMeasure: "test_a_column_counts_as_often_as_its_measure",
    MeasureBySquare: "test_a_column_counts_as_often_as_its_measure",
    WrongSign: "test_it_is_above_zero_elsewhere",
    Swapped: "test_it_agrees_with_the_case_worked_by_hand",
    Detached: "test_its_gradient_is_that_of_its_value",
    HalfDetached: "test_its_gradient_is_that_of_its_value",
    DropsTheLastColumn: "test_every_column_counts_and_their_order_does_not",
    ClaimsToBeLinear: "test_linear_is_true_of_it",
    NeitherLinearNorNot: "test_it_says_what_it_is_computed_on",
    UnknownTargets: "test_it_says_what_it_is_computed_on",
    ChangesItsInput: "test_it_leaves_its_input_as_it_was",
    Noisy: "test_it_gives_the_same_again",
    HalfPrecision: "test_it_keeps_the_type_of_its_input",
    LeavesTheLogarithm: "test_it_stays_finite_where_hardly_any_probability_is",
    Renormalises: "test_it_is_a_sum_over_the_columns_that_it_is_given",
    ClampsTheStudent: "test_no_term_is_cut_off",
    TurnsGradientsOff: "test_it_keeps_the_type_of_its_input",
    ChangesTheDefaultType: "test_it_keeps_the_type_of_its_input",
    CentredOverTheBatch: "test_a_position_does_not_depend_on_the_others",
    NotZeroAtTheTeacher: "test_it_is_zero_where_the_student_is_the_teacher",
}
IN_BITS = Worked(EXAMPLE.teacher, EXAMPLE.student, EXAMPLE.nats / math.log(2))

globals().update(suites_for(LossSuite, "loss", Good, SPOILT, worked=EXAMPLE))
globals().update(
    suites_for(
        LossSuite,
        "loss",
        Good,
        {BitsThatAgreeWithTheirExample: "test_it_is_in_nats"},
        worked=IN_BITS,
    )
    | {"TestGood": globals()["TestGood"]}
)
