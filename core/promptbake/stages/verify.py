"""Stage 3: the proof. Four arms on queries that were never trained on."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from promptbake.dataset.alignment import align_all
from promptbake.dataset.queries import load_questions
from promptbake.dataset.sampling import answer
from promptbake.distill.held_out_kl import gap_closed, gap_closed_ci95
from promptbake.distill.target_store import yardstick
from promptbake.errors import BakeError, ContractError
from promptbake.files import write_json
from promptbake.interfaces import EvalContext, Evaluator, Model
from promptbake.report import page as report
from promptbake.runs.session import Session
from promptbake.stages import data
from promptbake.types import ARMS, Arm, ArmAnswers, Datum, Measurement, Message, Query, VerifyResult


def run(session: Session) -> dict[str, Any]:
    """Measure the arms, write verify.json and report.html, and return what verify.json holds."""
    folder, config = session.run, session.config
    started = time.monotonic()
    dataset = data.load(session)
    base = session.base
    checkpoint, baked = session.checkpoint, session.baked
    datums = align_all(dataset.held_out, session.prompt, base)
    evaluators: list[Evaluator] = [
        session.make("evaluators", name, "verify.evaluators")
        for name in dict.fromkeys(config.verify.evaluators)
    ]

    kl = measure_kl(session, base, baked, datums)
    answers = ask_arms(session, base, baked)
    evidence = EvalContext(session.prompt, answers)
    measurements = [found for each in evaluators for found in _measured(each, evidence)]
    _refuse_one_name_twice(measurements)

    bar = config.verify.min_gap_closed
    passed = kl["gap_closed"] >= bar
    result = {
        "schema": 1,
        "prompt": session.prompt.name,
        "backend": session.backend.name,
        "model": base.name,
        "adapter": checkpoint.uri,
        "held_out": {
            "queries": len({datum.query_id for datum in datums}),
            "tokens": sum(datum.n_response for datum in datums),
        },
        "kl": kl,
        "evaluators": {item.name: {"unit": item.unit, **item.values} for item in measurements},
        "bars": {"kl.gap_closed": {"min": bar, "value": kl["gap_closed"], "passed": passed}},
        "passed": passed,
        "answers": [_answer_line(item) for item in answers],
        "seconds": {
            "data": folder.stage("data").get("seconds"),
            "bake": folder.stage("bake").get("seconds"),
            "verify": round(time.monotonic() - started, 1),
        },
    }
    write_json(folder.verify, result)
    report.write(folder)
    return result


def proof_of(record: dict[str, Any]) -> VerifyResult:
    """What verify.json holds, as a noun."""
    kl = record["kl"]
    measured = record["evaluators"].items()
    return VerifyResult(
        kl={arm: kl[arm] for arm in ARMS if arm in kl},
        kl_kind=kl["kind"],
        gap_closed=kl["gap_closed"],
        gap_closed_ci95=tuple(kl["gap_closed_ci95"]),
        min_gap_closed=record["bars"]["kl.gap_closed"]["min"],
        measurements=tuple(
            Measurement(name, found["unit"], {arm: found[arm] for arm in ARMS if arm in found})
            for name, found in measured
        ),
        answers=tuple(
            ArmAnswers(
                Query(line["id"], (Message("user", line["question"]),)),
                {arm: line[arm] for arm in ARMS if arm in line},
            )
            for line in record["answers"]
        ),
    )


def measure_kl(
    session: Session, base: Model, baked: Model, datums: Sequence[Datum]
) -> dict[str, Any]:
    """KL(prompted || arm) on held-out responses, and how much of the gap is closed."""
    measure = yardstick(session, datums)
    with session.reporter.bar("held-out KL", 3) as bar:
        before = measure.unprompted(base)
        bar.advance(note="base")
        after = measure.unprompted(baked)
        bar.advance(note="baked")
        again = measure.prompted(baked)
        bar.advance(note="re-prompted")
    if before.per_token == 0:
        raise BakeError(
            f"prompt {session.prompt.name}: it changes nothing in the model's held-out responses, "
            "so there is no gap to close"
        )
    groups = [datum.query_id for datum in datums]
    return {
        "unit": "nats/token",
        "kind": measure.kind,
        "base": before.per_token,
        "baked": after.per_token,
        "reprompted": again.per_token,
        "gap_closed": gap_closed(before, after),
        "gap_closed_ci95": list(gap_closed_ci95(before, after, groups, session.config.seed)),
    }


def ask_arms(session: Session, base: Model, baked: Model) -> tuple[ArmAnswers, ...]:
    """The test questions, answered by all four arms."""
    config = session.config.verify
    questions = load_questions(config.questions)
    arms: dict[Arm, tuple[Model, str | None]] = {
        "base": (base, None),
        "prompted": (base, session.prompt.text),
        "baked": (baked, None),
        "reprompted": (baked, session.prompt.text),
    }
    texts: dict[Arm, tuple[str, ...]] = {}
    with session.reporter.bar("test questions", len(arms)) as bar:
        for arm, (model, system) in arms.items():
            texts[arm] = answer(
                model,
                questions,
                system=system,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=session.config.seed,
            )
            bar.advance(note=arm)
    return tuple(
        ArmAnswers(question, {arm: texts[arm][index] for arm in arms})
        for index, question in enumerate(questions)
    )


def _measured(evaluator: Evaluator, evidence: EvalContext) -> Sequence[Measurement]:
    found = list(evaluator.evaluate(evidence))
    for each in found:
        if not isinstance(each, Measurement):
            raise ContractError(evaluator, f"gave {each!r}: expected a Measurement")
        numbers = each.values.values()
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            raise ContractError(evaluator, f"gave {each!r}: expected finite numbers")
    return found


def _refuse_one_name_twice(measurements: Sequence[Measurement]) -> None:
    names = Counter(each.name for each in measurements)
    for name, count in names.items():
        if count > 1:
            raise BakeError(
                f"verify.evaluators: {count} measurements are called {name!r}, and verify.json can "
                "hold one of that name; leave one of their evaluators out"
            )


def _answer_line(item: ArmAnswers) -> dict[str, Any]:
    question = item.query.messages[-1].content
    return {"id": item.query.id, "question": question, **dict(item.texts.items())}
