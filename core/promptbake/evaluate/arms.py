"""The four arms: their prompts, their KL from the prompted model, their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from promptbake.dataset.sampling import answer
from promptbake.distill.held_out_kl import HeldOutKL
from promptbake.interfaces import EvalArm, Model
from promptbake.progress import Reporter
from promptbake.types import ARM_LABELS, Arm, ArmAnswers, BakeTarget, KLByConversation, Query


def four_arms(
    target: BakeTarget, open_base: Callable[[], Model], open_baked: Callable[[], Model]
) -> dict[Arm, EvalArm]:
    """Base and baked model, each under the student's prompt and under the teacher's."""
    student, teacher = target.student.system, target.teacher.system
    return {
        "base": EvalArm(student, open_base),
        "prompted": EvalArm(teacher, open_base),
        "baked": EvalArm(student, open_baked),
        "reprompted": EvalArm(teacher, open_baked),
    }


def measure_kl(
    held_out_kl: HeldOutKL, base: Model, baked: Model, reporter: Reporter
) -> dict[Arm, KLByConversation]:
    """KL(prompted || arm) on held-out responses, of the three arms that can differ."""
    with reporter.bar("held-out KL", 3) as bar:
        before = held_out_kl.unprompted(base)
        bar.advance(note="base")
        after = held_out_kl.unprompted(baked)
        bar.advance(note="baked")
        again = held_out_kl.prompted(baked)
        bar.advance(note="re-prompted")
    return {"base": before, "baked": after, "reprompted": again}


def ask_arms(
    arms: Mapping[Arm, EvalArm],
    questions: Sequence[Query],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    reporter: Reporter,
) -> tuple[ArmAnswers, ...]:
    """The test questions, answered by all arms with the same random numbers."""
    texts: dict[Arm, tuple[str, ...]] = {}
    with reporter.bar("test questions", len(arms)) as bar:
        for name, arm in arms.items():
            texts[name] = answer(
                arm.open_model(),
                questions,
                system=arm.system,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
            )
            bar.advance(note=ARM_LABELS[name])
    return tuple(
        ArmAnswers(question, {arm: texts[arm][index] for arm in arms})
        for index, question in enumerate(questions)
    )
