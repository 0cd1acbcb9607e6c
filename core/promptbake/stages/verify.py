"""Stage 3: measure the four arms on queries that were never trained on, and judge the bake."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from promptbake.dataset.queries import load_questions
from promptbake.distill.checkpoints import identity
from promptbake.distill.held_out_kl import StoredKL
from promptbake.errors import BakeError
from promptbake.evaluate.arms import AnswerSampling, ask_arms, four_arms, main_target, measure_kl
from promptbake.evaluate.controls import Control, HeldOutSet, run_controls
from promptbake.evaluate.measurements import evaluate
from promptbake.interfaces import EvalArm, EvalContext
from promptbake.report import page
from promptbake.report.kl_result import HeldOut, Kind, KLResult, TargetKL
from promptbake.report.measured import ControlResult, MeasurementResult
from promptbake.report.origin import Origin, SystemPrompt
from promptbake.report.query_kl import by_query
from promptbake.report.verdict import is_equivalent, judge
from promptbake.report.verify_result import AnswerResult, Seconds, Threshold, VerifyResult
from promptbake.runs.generation import load_dataset
from promptbake.runs.scoring import held_out_kls, open_measurements, stored_kl
from promptbake.runs.session import Session
from promptbake.types import Arm, Datum, KLByConversation


def run(session: Session, *, anew: bool = False, controls: bool = False) -> VerifyResult:
    """Measure the arms, write verify.json and report.html, and return what verify.json holds.

    Args:
        session: The run.
        anew: Measure again what the run's store of measurements holds.
        controls: Run every control, not only `wrong prompt`.
    """
    folder, config = session.run, session.config
    started = time.monotonic()
    dataset = load_dataset(session)
    base, baked, checkpoint = session.base, session.baked, session.checkpoint
    weights = identity(checkpoint)
    store = open_measurements(session, anew=anew)
    evaluators = session.evaluators()
    target = main_target(session.targets)
    arms = four_arms(target, session.open_base, lambda: baked)
    by_target = {
        name: (each.datums, _kl_of_arms(session, each, arms, weights))
        for name, each in held_out_kls(session, dataset.held_out, store).items()
    }
    datums, kl_of_arms = by_target[target.name]
    kl = _kl_result(session, datums, kl_of_arms)
    conversations = {each.id: each for each in dataset.held_out if each.target == target.name}
    held_out = tuple(conversations[datum.conversation_id] for datum in datums)
    measured_controls = run_controls(
        HeldOutSet(target, held_out, datums, kl_of_arms, weights),
        arms,
        lambda datums: stored_kl(session, datums, store),
        session.reporter,
        every=controls,
    )
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
        held_out=held_out,
        held_out_kl=kl_of_arms,
        questions=len(answers),
        seed=config.seed,
        budget=session.budget,
    )
    measurements = evaluate(evaluators, context, folder.evaluators, session.reporter)
    results = {each.name: MeasurementResult.of(each) for each in measurements}

    threshold = _threshold(session, kl)
    control_results = {each.name: _control_result(session, each) for each in measured_controls}
    recorded = folder.stage("bake").get("margins", {})
    verdict = judge(
        kl,
        results,
        control_results,
        config.verify.margins,
        config.verify.min_gap_closed,
        recorded,
    )
    result = VerifyResult(
        prompt=session.prompt.name,
        backend=session.backend.name,
        model=base.name,
        adapter=checkpoint.uri,
        system_prompt=SystemPrompt.of(target.teacher, datums, shown=config.report.show_prompt),
        origin=Origin.of(session),
        held_out=HeldOut.of(datums),
        kl=kl,
        queries=by_query(held_out, datums, kl_of_arms),
        targets=(
            {name: TargetKL.of(each) for name, (_, each) in by_target.items()}
            if len(by_target) > 1
            else {}
        ),
        evaluators=results,
        controls=control_results,
        thresholds={"kl.gap_closed": threshold},
        verdict=verdict,
        passed=threshold.passed and verdict.outcome != "failed",
        answers=[AnswerResult.of(each) for each in answers],
        seconds=_seconds(session, started),
    )
    result.save(folder.verify)
    page.write(folder)
    return result


def _threshold(session: Session, kl: KLResult) -> Threshold:
    least = session.config.verify.min_gap_closed
    return Threshold(min=least, value=kl.gap_closed, passed=kl.gap_closed >= least)


def _control_result(session: Session, control: Control) -> ControlResult:
    return ControlResult(
        what=control.what,
        gap_closed=control.gap_closed,
        ci90=control.ci90,
        conversations=control.conversations,
        refused=not is_equivalent(control.ci90, session.config.verify.margins),
    )


def _seconds(session: Session, started: float) -> Seconds:
    return Seconds(
        data=session.run.stage("data").get("seconds"),
        bake=session.run.stage("bake").get("seconds"),
        verify=round(time.monotonic() - started, 1),
    )


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
    kind: Kind = "full" if session.base.full_vocabulary else "top_k_bucket"
    return KLResult.of(kind, arms, [datum.query_id for datum in datums])
