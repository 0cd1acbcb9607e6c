"""The four arms: their prompts, their KL from the prompted model, their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from promptbake.distill.held_out_kl import StoredKL
from promptbake.distill.measurement_store import BASE_WEIGHTS, MeasurementStore
from promptbake.interfaces import EvalArm, Model
from promptbake.progress import Bar, Reporter
from promptbake.seeds import derive
from promptbake.types import (
    ARM_LABELS,
    ARMS,
    Arm,
    ArmAnswers,
    BakeTarget,
    KLByConversation,
    Query,
    SampledAnswer,
    TokenIds,
)

SAME_WEIGHTS: tuple[tuple[Arm, Arm], ...] = (("base", "prompted"), ("baked", "reprompted"))


def main_target(targets: Sequence[BakeTarget]) -> BakeTarget:
    """The first whose prompts differ: the others keep the model as it is."""
    return next((each for each in targets if each.teacher.text != each.student.text), targets[0])


def four_arms(
    target: BakeTarget,
    open_base: Callable[[], Model],
    open_baked: Callable[[], Model],
    weights: tuple[str | None, str | None] = (None, None),
) -> dict[Arm, EvalArm]:
    """Base and baked model, each under the student's prompt and under the teacher's.

    `weights` identifies those of the base and of the baked model.
    """
    student, teacher = target.student.system, target.teacher.system
    base, baked = weights
    return {
        "base": EvalArm(student, open_base, base),
        "prompted": EvalArm(teacher, open_base, base),
        "baked": EvalArm(student, open_baked, baked),
        "reprompted": EvalArm(teacher, open_baked, baked),
    }


def measure_kl(
    kl: StoredKL, arms: Mapping[Arm, EvalArm], baked_weights: str, reporter: Reporter
) -> dict[Arm, KLByConversation]:
    """KL(prompted || arm) on held-out responses, of the three arms that can differ.

    Args:
        kl: What measures it, or reads what was measured before.
        arms: The four arms.
        baked_weights: The adapter's identity.
        reporter: Shows the progress.
    """
    with reporter.bar("held-out KL", 3) as bar:
        before = kl.unprompted(BASE_WEIGHTS, arms["base"].open_model)
        bar.advance(note="base")
        after = kl.unprompted(baked_weights, arms["baked"].open_model)
        bar.advance(note="baked")
        again = kl.prompted(baked_weights, arms["reprompted"].open_model)
        bar.advance(note="re-prompted")
    return {"base": before, "baked": after, "reprompted": again}


@dataclass(frozen=True)
class AnswerSampling:
    """How the test questions are answered: temperature 0 is greedy."""

    max_tokens: int
    temperature: float
    seed: int


def ask_arms(
    arms: Mapping[Arm, EvalArm],
    questions: Sequence[Query],
    sampling: AnswerSampling,
    store: MeasurementStore,
    baked_weights: str,
    reporter: Reporter,
) -> tuple[ArmAnswers, ...]:
    """The test questions, answered by all arms with the same random numbers.

    A question's random numbers depend on the seed and the question alone, so that two models that
    agree give the same answer. What is in the store is not asked again.
    """
    weights = dict[Arm, str](zip(ARMS, (BASE_WEIGHTS,) * 2 + (baked_weights,) * 2, strict=True))
    base = arms["base"].open_model()
    rows = dict[Arm, list[_Row]]()
    for names in SAME_WEIGHTS:
        pair = {name: arms[name] for name in names}
        rows |= _rows(pair, weights[names[0]], base, questions, sampling, store)
    every = [row for each in rows.values() for row in each]
    calls = [
        (arms[names[0]], call)
        for names in SAME_WEIGHTS
        for call in _calls([rows[name] for name in names], base, store)
    ]
    if missing := sum(len(call) for _, call in calls):
        with reporter.bar("test questions", len(every), len(every) - missing) as bar:
            for arm, call in calls:
                store.put_answers(_answers(arm.open_model(), call, sampling, bar))
    answers = {row.key: known for row in every if (known := store.answer(row.key)) is not None}
    return tuple(
        ArmAnswers.of(question, {name: answers[rows[name][index].key] for name in arms})
        for index, question in enumerate(questions)
    )


@dataclass(frozen=True)
class _Row:
    """A question to one arm."""

    arm: Arm
    prompt: TokenIds
    seed: int
    key: str  # of its answer


def _rows(
    arms: Mapping[Arm, EvalArm],
    weights: str,
    base: Model,
    questions: Sequence[Query],
    sampling: AnswerSampling,
    store: MeasurementStore,
) -> dict[Arm, list[_Row]]:
    """The questions to the arms with these weights, with the key of what each answer depends on."""
    prompts = {
        name: [base.renderer.prompt(question.messages, arm.system) for question in questions]
        for name, arm in arms.items()
    }
    seeds = [derive(sampling.seed, "answer", question.id) for question in questions]
    how: dict[str, object] = {"max_tokens": sampling.max_tokens}
    how |= {"temperature": sampling.temperature, "weights": weights}
    if base.sample_batch is not None:  # rounding may let an answer depend on its batch
        how["batch"] = store.key(prompts=list(prompts.values()), size=base.sample_batch)
    return {
        name: [
            _Row(name, prompt, seed, store.key(prompt=prompt, seed=seed, **how))
            for prompt, seed in zip(prompts[name], seeds, strict=True)
        ]
        for name in arms
    }


def _calls(
    arms: Sequence[Sequence[_Row]], model: Model, store: MeasurementStore
) -> list[Sequence[_Row]]:
    """What is sampled in one call: all that is missing of the arms with the same weights.

    Whole, where the model samples in batches: an answer may depend on its batch.
    """
    missing = [row for rows in arms for row in rows if store.answer(row.key) is None]
    if missing and model.sample_batch is not None:
        return [[row for rows in arms for row in rows]]
    return [missing] if missing else []


def _answers(
    model: Model, rows: Sequence[_Row], sampling: AnswerSampling, bar: Bar
) -> Iterator[tuple[str, SampledAnswer]]:
    completions = model.sample(
        [row.prompt for row in rows],
        max_tokens=sampling.max_tokens,
        temperatures=[sampling.temperature] * len(rows),
        seeds=[row.seed for row in rows],
        progress=bar.advance_estimate,
    )
    for index, completion in completions:
        row = rows[index]
        text = model.renderer.text(completion.tokens)
        yield row.key, SampledAnswer(text, len(completion.tokens), completion.complete)
        bar.advance(note=ARM_LABELS[row.arm])
