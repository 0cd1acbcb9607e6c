"""What a reader of a result must know before its numbers: the report's strip of warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from promptbake.report.diagnosis import WEAK_PROMPT
from promptbake.report.origin import Origin
from promptbake.report.sections import readable
from promptbake.report.verify_result import VerifyResult

MANY = 0.2  # of the responses cut or left out
FEW_QUERIES = 15  # with fewer, an interval rests on little: its coverage was tested from 15 on
SAME_BY_DESIGN = ("retention", "extraction")  # base and prompted model may well agree there


def cautions(result: VerifyResult, record: Mapping[str, Any]) -> list[str]:
    """One sentence each, the gravest first.

    Args:
        result: What `verify` measured.
        record: What run.json holds.
    """
    return [
        *_of_controls(result),
        *_of_margins(result),
        *_of_base(result),
        *_of_training(result.origin, record),
        *_of_data(record.get("stages", {}).get("data", {})),
        *_of_bake(record.get("stages", {}).get("bake", {})),
        *_of_sets(result),
        *_of_checks(result),
        *_of_numbers(result),
    ]


def _of_controls(result: VerifyResult) -> Iterator[str]:
    for name, control in result.controls.items():
        if not control.refused:
            yield (
                f"The control “{name}” must be refused and was not ({control.what}): these "
                "measurements cannot tell a bad bake from a good one."
            )
    if not result.controls:
        yield "No control was run: nothing here shows that a bad bake would be refused."


def _of_margins(result: VerifyResult) -> Iterator[str]:
    for line in result.verdict.margins_changed:
        yield f"The margins are not those from before training: {line}."


def _of_base(result: VerifyResult) -> Iterator[str]:
    if result.kl.base < WEAK_PROMPT:
        yield (
            f"This prompt barely changes this model ({result.kl.base:.3f} nats per token on "
            "held-out queries): there is little to bake, and a large share of little is little."
        )


def _of_training(origin: Origin | None, record: Mapping[str, Any]) -> Iterator[str]:
    if origin is None or origin.cut <= MANY * origin.conversations:
        return
    limit = record.get("config", {}).get("data", {}).get("max_tokens")
    at = f" at {limit} tokens" if limit else ""
    yield (
        f"{origin.cut} of {origin.conversations} responses that were trained on were cut{at}: the "
        "baked model hardly learned when to stop."
    )


def _of_data(stage: Mapping[str, Any]) -> Iterator[str]:
    rejected, kept = stage.get("rejected") or 0, stage.get("conversations") or 0
    total = rejected + kept + (stage.get("held_out") or 0)
    if rejected > MANY * total:
        yield f"{rejected} of {total} responses were left out (rejected.jsonl says why)."


def _of_bake(stage: Mapping[str, Any]) -> Iterator[str]:
    if "planned_steps" in stage:
        yield f"Training was stopped after {stage['steps']} of {stage['planned_steps']} steps."
    for heat, each in stage.get("sampling", {}).items():
        if _is_off(each):
            yield (
                f"The responses at temperature {heat} are no samples of the prompted model at it "
                f"({each['nll']:.2f} nats per token, where samples have "
                f"{each['expected_nll']:.2f})."
            )


def _is_off(numbers: Mapping[str, float]) -> bool:
    from promptbake.distill.sampling_check import SamplingStatistics  # torch takes a while

    tokens = int(numbers["tokens"])
    observed, expected = numbers["nll"] * tokens, numbers["expected_nll"] * tokens
    error = numbers["standard_error"] * tokens
    return SamplingStatistics(tokens, observed, expected, error**2).is_off


def _of_sets(result: VerifyResult) -> Iterator[str]:
    for name, each in result.evaluators.items():
        if each.gap is not None and each.gap.closed < 0:
            yield (
                f"On “{readable(name.partition('.')[2] or name)}” the baked model is further from "
                "the prompted one than the bare model is: there the bake does harm."
            )


def _of_checks(result: VerifyResult) -> Iterator[str]:
    for name, each in result.evaluators.items():
        base, prompted = each.shares.get("base"), each.shares.get("prompted")
        if base is None or prompted is None or name.partition(".")[0] in SAME_BY_DESIGN:
            continue
        if (base.count, base.items) == (prompted.count, prompted.items):
            yield (
                f"“{name}” cannot tell a bake from none: with the prompt the model passes "
                f"{prompted.count} of {prompted.items}, and without it as many."
            )


def _of_numbers(result: VerifyResult) -> Iterator[str]:
    queries = result.held_out.queries
    if queries < FEW_QUERIES:
        yield (
            f"{queries} held-out {'query is' if queries == 1 else 'queries are'} few: another "
            "handful could give another number (data.held_out)."
        )
    if result.kl.kind == "top_k_bucket":
        yield (
            "The KL is a lower bound: the prompted model's likeliest tokens, and one bucket for "
            "the rest of the vocabulary."
        )
