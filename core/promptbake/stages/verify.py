"""Stage 3: measure the four arms on queries that were never trained on, and judge the bake."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from promptbake.dataset.queries import load_questions
from promptbake.distill.checkpoints import identity
from promptbake.distill.held_out_kl import StoredKL
from promptbake.distill.measurement_store import BASE_WEIGHTS, MeasurementStore
from promptbake.errors import BakeError
from promptbake.evaluate.arms import AnswerSampling, ask_arms, four_arms, main_target, measure_kl
from promptbake.evaluate.controls import HeldOutSet, run_controls
from promptbake.evaluate.measurements import evaluate
from promptbake.interfaces import EvalArm, EvalContext
from promptbake.report import outputs
from promptbake.report.evidence import (
    ControlEvidence,
    Evidence,
    PromptText,
    Scores,
    TargetEvidence,
    line_digests,
)
from promptbake.report.origin import Origin, tokens_saved
from promptbake.report.query_kl import questions
from promptbake.report.summary import KLByTarget, summarise
from promptbake.report.verify_result import AnswerResult, Seconds, VerifyResult
from promptbake.runs.generation import load_dataset
from promptbake.runs.scoring import held_out_kls, open_measurements, stored_kl
from promptbake.runs.session import Session
from promptbake.types import Arm, KLByConversation


def run(session: Session, *, anew: bool = False, controls: bool = False) -> VerifyResult:
    """Measure the arms, write what was measured and what follows, and return verify.json's content.

    Args:
        session: The run.
        anew: Measure again what the run's store of measurements holds.
        controls: Run every control, not only `wrong prompt`.
    """
    folder = session.run
    store = open_measurements(session, anew=anew)
    evidence, kl_by_target = measure(
        session, store, folder.evaluators, anew=anew, controls=controls
    )
    evidence.save(folder.evidence)
    result = summarise(evidence, kl_by_target)
    result.save(folder.verify)
    outputs.write(folder)
    return result


def measure(
    session: Session, store: MeasurementStore, caches: Path, *, anew: bool, controls: bool
) -> tuple[Evidence, KLByTarget]:
    """What verify.json is computed from, and the KL of each target and arm.

    Args:
        session: The run.
        store: What it holds is not measured again.
        caches: A folder for the evaluators' caches.
        anew: The evaluators read nothing of their caches.
        controls: Run every control, not only `wrong prompt`.
    """
    started = time.monotonic()
    config, dataset = session.config, load_dataset(session)
    base, baked, checkpoint = session.base, session.baked, session.checkpoint
    weights = identity(checkpoint)
    evaluators = session.evaluators()
    target = main_target(session.targets)
    identities = store.key(weights=BASE_WEIGHTS), store.key(weights=weights)
    arms = four_arms(target, session.open_base, lambda: baked, identities)
    by_target = {
        name: (each.datums, _kl_of_arms(session, each, arms, weights))
        for name, each in held_out_kls(session, dataset.held_out, store).items()
    }
    datums, kl_of_arms = by_target[target.name]
    _refuse_no_gap(session, kl_of_arms)
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
        anew=anew,
        say=session.reporter.say,
    )
    measurements = evaluate(evaluators, context, caches, session.reporter)
    shown = config.report.show_prompt
    evidence = Evidence(
        prompt=PromptText.of(session.prompt, shown=shown),
        backend=session.backend.name,
        model=base.name,
        adapter=checkpoint.uri,
        origin=Origin.of(session, dataset.training),
        tokens_saved=tokens_saved(datums),
        questions=questions(held_out),
        kind="full" if base.full_vocabulary else "top_k_bucket",
        main_target=target.name,
        targets=[
            TargetEvidence.of(each, *by_target[each.name], shown=shown) for each in session.targets
        ],
        controls=[ControlEvidence.of(each) for each in measured_controls],
        measurements=[Scores.of(each) for each in measurements],
        answers=[AnswerResult.of(each) for each in answers],
        seconds=_seconds(session, started),
        config=config.model_dump(mode="json"),
        record=session.run.record,
        lines=line_digests(session.run),
    )
    return evidence, {name: arms for name, (_, arms) in by_target.items()}


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


def _refuse_no_gap(session: Session, arms: Mapping[Arm, KLByConversation]) -> None:
    if arms["base"].per_token == 0:
        raise BakeError(
            f"prompt {session.prompt.name}: it changes nothing in the model's held-out responses, "
            "so there is no gap to close"
        )
