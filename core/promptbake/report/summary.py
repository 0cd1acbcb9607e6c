"""From what was measured to verify.json: means, intervals, differences, thresholds, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptbake.evaluate.controls import Control
from promptbake.report.evidence import ConversationKL, Evidence, kl_of
from promptbake.report.kl_result import HeldOut, KLResult, TargetKL
from promptbake.report.measured import ControlResult, MeasurementResult
from promptbake.report.origin import SystemPrompt
from promptbake.report.query_kl import QueryKL, by_query
from promptbake.report.verdict import is_equivalent, judge
from promptbake.report.verify_result import Threshold, VerifyResult
from promptbake.runs.config import MarginsSection, VerifySection
from promptbake.types import Arm, KLByConversation

KLByTarget = Mapping[str, Mapping[Arm, KLByConversation]]


def summarise(evidence: Evidence, kl_by_target: KLByTarget) -> VerifyResult:
    """What verify.json holds; the same evidence gives the same numbers.

    Args:
        evidence: What was measured.
        kl_by_target: The same KL as in the evidence, of each target and arm, with what is known of
            it token by token.
    """
    settings = VerifySection.model_validate(evidence.config["verify"])
    rows = evidence.main.held_out
    kl = KLResult.of(
        evidence.kind, kl_by_target[evidence.main_target], [each.query for each in rows]
    )
    results = {
        each.name: MeasurementResult.of(each.as_measurement()) for each in evidence.measurements
    }
    controls = {
        each.name: _control(each.as_control(), settings.margins) for each in evidence.controls
    }
    least = settings.min_gap_closed
    verdict = judge(kl, results, controls, settings.margins, least, _recorded_margins(evidence))
    threshold = Threshold(min=least, value=kl.gap_closed, passed=kl.gap_closed >= least)
    several = len(evidence.targets) > 1
    return VerifyResult(
        prompt=evidence.prompt.name,
        backend=evidence.backend,
        model=evidence.model,
        adapter=evidence.adapter,
        system_prompt=SystemPrompt(text=evidence.main.teacher.text, tokens=evidence.tokens_saved),
        origin=evidence.origin,
        held_out=_held_out(rows),
        kl=kl,
        queries=_queries(evidence),
        targets={name: TargetKL.of(arms) for name, arms in kl_by_target.items() if several},
        evaluators=results,
        controls=controls,
        thresholds={"kl.gap_closed": threshold},
        verdict=verdict,
        passed=threshold.passed and verdict.outcome != "failed",
        answers=evidence.answers,
        seconds=evidence.seconds,
    )


def _queries(evidence: Evidence) -> list[QueryKL]:
    rows = evidence.main.held_out
    arms: list[Arm] = list(rows[0].nats)
    return by_query(
        [row.query for row in rows], evidence.questions, {arm: kl_of(rows, arm) for arm in arms}
    )


def _held_out(rows: Sequence[ConversationKL]) -> HeldOut:
    queries = len({row.query for row in rows})
    return HeldOut(queries=queries, tokens=sum(row.tokens for row in rows))


def _control(control: Control, margins: MarginsSection) -> ControlResult:
    return ControlResult(
        what=control.what,
        gap_closed=control.gap_closed,
        ci90=control.ci90,
        conversations=len(control.conversations),
        refused=not is_equivalent(control.ci90, margins),
    )


def _recorded_margins(evidence: Evidence) -> Mapping[str, float]:
    """Those that were on record when the bake began; empty where none were."""
    record: Any = evidence.record
    margins: Mapping[str, float] = record.get("stages", {}).get("bake", {}).get("margins", {})
    return margins
