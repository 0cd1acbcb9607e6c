"""Stage 3: measure the four arms on queries that were never trained on."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from promptbake.dataset.queries import load_questions
from promptbake.distill.checkpoints import identity
from promptbake.distill.held_out_kl import StoredKL
from promptbake.distill.measurement_store import BASE_WEIGHTS
from promptbake.errors import BakeError
from promptbake.evaluate.arms import AnswerSampling, ask_arms, four_arms, measure_kl
from promptbake.evaluate.statistics import gap_closed, gap_closed_ci95, paired_difference
from promptbake.interfaces import EvalArm, EvalContext, Evaluator
from promptbake.plugins.attribution import contract_error
from promptbake.report import page
from promptbake.report.verify_result import (
    AnswerResult,
    DifferenceResult,
    HeldOut,
    KLResult,
    MeasurementResult,
    Seconds,
    TargetKL,
    Threshold,
    VerifyResult,
)
from promptbake.runs.generation import load_dataset
from promptbake.runs.scoring import held_out_kls, open_measurements
from promptbake.runs.session import Session
from promptbake.types import (
    ARMS,
    Arm,
    BakeTarget,
    Datum,
    KLByConversation,
    Measurement,
)


def run(session: Session, *, anew: bool = False) -> VerifyResult:
    """Measure the arms, write verify.json and report.html, and return what verify.json holds.

    What the run's store of measurements holds is not measured again, unless `anew`.
    """
    folder, config = session.run, session.config
    started = time.monotonic()
    held_out = load_dataset(session).held_out
    base, baked, checkpoint = session.base, session.baked, session.checkpoint
    weights = identity(checkpoint)
    store = open_measurements(session, anew=anew)
    evaluators = session.evaluators()
    target = _main_target(session.targets)
    identities = store.key(weights=BASE_WEIGHTS), store.key(weights=weights)
    arms = four_arms(target, session.open_base, lambda: baked, identities)
    by_target = {
        name: (each.datums, _kl_of_arms(session, each, arms, weights))
        for name, each in held_out_kls(session, held_out, store).items()
    }
    datums, kl_of_arms = by_target[target.name]
    kl = _kl_result(session, datums, kl_of_arms)
    answers = ask_arms(
        arms,
        load_questions(config.verify.questions, config.data.column),
        AnswerSampling(config.verify.max_tokens, config.verify.temperature, config.seed),
        store,
        weights,
        session.reporter,
    )
    context = EvalContext(
        prompt=session.prompt,
        answers=answers,
        arms=arms,
        held_out=tuple(each for each in held_out if each.target == target.name),
        held_out_kl=kl_of_arms,
        questions=len(answers),
        seed=config.seed,
        budget=session.budget,
        anew=anew,
        say=session.reporter.say,
    )
    measurements = _evaluate(session, evaluators, context)

    threshold = config.verify.min_gap_closed
    passed = kl.gap_closed >= threshold
    result = VerifyResult(
        prompt=session.prompt.name,
        backend=session.backend.name,
        model=base.name,
        adapter=checkpoint.uri,
        held_out=_held_out(datums),
        kl=kl,
        targets=_target_results(by_target),
        evaluators={each.name: _measurement_result(each) for each in measurements},
        thresholds={"kl.gap_closed": Threshold(min=threshold, value=kl.gap_closed, passed=passed)},
        passed=passed,
        answers=[AnswerResult.of(each) for each in answers],
        seconds=_seconds(session, started),
    )
    result.save(folder.verify)
    page.write(folder)
    return result


def _held_out(datums: Sequence[Datum]) -> HeldOut:
    return HeldOut(
        queries=len({datum.query_id for datum in datums}),
        tokens=sum(datum.n_response for datum in datums),
    )


def _seconds(session: Session, started: float) -> Seconds:
    return Seconds(
        data=session.run.stage("data").get("seconds"),
        bake=session.run.stage("bake").get("seconds"),
        verify=round(time.monotonic() - started, 1),
    )


def _main_target(targets: Sequence[BakeTarget]) -> BakeTarget:
    """The first whose prompts differ: the others keep the model as it is."""
    return next((each for each in targets if each.teacher.text != each.student.text), targets[0])


def _kl_of_arms(
    session: Session, kl: StoredKL, arms: Mapping[Arm, EvalArm], weights: str
) -> dict[Arm, KLByConversation]:
    """The KL of the three arms on one target's held-out datums."""
    measured = measure_kl(kl, arms, weights, session.reporter)
    for arm, each in measured.items():
        if not math.isfinite(each.per_token):
            raise BakeError(
                f"{session.checkpoint.uri}: the KL of the arm {arm} is {each.per_token}; lower "
                "train.lr and bake again"
            )
    return measured


def _kl_result(
    session: Session, datums: Sequence[Datum], arms: Mapping[Arm, KLByConversation]
) -> KLResult:
    if arms["base"].per_token == 0:
        raise BakeError(
            f"prompt {session.prompt.name}: it changes nothing in the model's held-out responses, "
            "so there is no gap to close"
        )
    groups = [datum.query_id for datum in datums]
    return KLResult(
        kind="full" if session.base.full_vocabulary else "top_k_bucket",
        base=arms["base"].per_token,
        baked=arms["baked"].per_token,
        reprompted=arms["reprompted"].per_token,
        gap_closed=gap_closed(arms["base"], arms["baked"]),
        gap_closed_ci95=gap_closed_ci95(arms["base"], arms["baked"], groups, session.config.seed),
    )


def _target_results(
    by_target: Mapping[str, tuple[Sequence[Datum], Mapping[Arm, KLByConversation]]],
) -> dict[str, TargetKL]:
    if len(by_target) == 1:
        return {}
    return {
        name: TargetKL(
            **{arm: each.per_token for arm, each in arms.items()},
            gap_closed=(
                gap_closed(arms["base"], arms["baked"]) if arms["base"].per_token else None
            ),
        )
        for name, (_, arms) in by_target.items()
    }


def _evaluate(
    session: Session, evaluators: Mapping[str, Evaluator], context: EvalContext
) -> list[Measurement]:
    measurements: list[Measurement] = []
    for name, evaluator in evaluators.items():
        cache = session.run.path / "evaluators" / name
        with session.reporter.bar(name, 1) as bar:
            given = replace(context, cache=cache, progress=bar.advance_estimate)
            measurements += _checked(evaluator, evaluator.evaluate(given))
            bar.advance()
    names = Counter(each.name for each in measurements)
    for name, count in names.items():
        if count > 1:
            raise BakeError(
                f"verify.evaluators: {count} measurements are called {name!r}, and verify.json can "
                "hold one of that name; leave one of their evaluators out"
            )
    return measurements


def _checked(evaluator: Evaluator, measurements: Sequence[Measurement]) -> list[Measurement]:
    for each in measurements:
        if not isinstance(each, Measurement):
            raise contract_error(evaluator, f"gave {each!r}: expected a Measurement")
        if not set(each.scores) <= set(ARMS):
            raise contract_error(evaluator, f"gave {each!r}: the arms are {', '.join(ARMS)}")
        numbers = [value for scores in each.scores.values() for value in scores.values()]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise contract_error(evaluator, f"gave {each!r}: expected finite numbers")
    return list(measurements)


def _measurement_result(measurement: Measurement) -> MeasurementResult:
    scores = measurement.scores
    return MeasurementResult(
        unit=measurement.unit,
        better=measurement.better,
        **measurement.means,
        baked_minus_prompted=_difference(scores.get("baked", {}), scores.get("prompted", {})),
        baked_minus_base=_difference(scores.get("baked", {}), scores.get("base", {})),
        scores={
            arm: {item: float(score) for item, score in each.items()}
            for arm, each in scores.items()
        },
    )


def _difference(
    scores: Mapping[str, float], others: Mapping[str, float]
) -> DifferenceResult | None:
    difference = paired_difference(scores, others)
    return DifferenceResult(**asdict(difference)) if difference else None
