"""report.html: verify.json and the metrics for a person, in one file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from promptbake.documents.typed import read_own_lines
from promptbake.files import write_atomic
from promptbake.report import sections
from promptbake.report.cautions import cautions
from promptbake.report.formats import count, duration, open_environment
from promptbake.report.scales import kl_scale, share_scale
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.run_folder import Run
from promptbake.types import StepMetrics

OPEN_QUERIES = 8  # held-out queries that are shown unfolded
REFERENCE_KL = 0.1  # nats/token: marked on the scale, and said in words


def write(run: Run) -> None:
    """Write `run.report`; see `render`. Raises BakeError without a readable verify.json."""
    write_atomic(run.report, render(run, VerifyResult.load(run.verify)))


def render(run: Run, result: VerifyResult) -> str:
    """The page of a result, with what there is of run.json and metrics.jsonl.

    The same inputs give the same text.
    """
    record = run.record
    kinds = sections.by_kind(result.evaluators)
    environment = open_environment()
    environment.filters |= {
        "criterion_value": lambda value, criterion: sections.criterion_value(criterion, value),
        "criterion_interval": sections.criterion_interval,
        "criterion_name": sections.criterion_name,
        "criterion_limit": sections.criterion_limit,
    }
    return environment.from_string(_template()).render(
        result=result,
        arm_names=sections.ARM_NAMES,
        cautions=cautions(result, record),
        reference_kl=REFERENCE_KL,
        kl=_kl(result),
        queries=_queries(result),
        gaps={kind: _gaps(kind, sections.gap_rows(each)) for kind, each in kinds.items()},
        tables={kind: _table(sections.table_rows(each)) for kind, each in kinds.items()},
        endings=sections.endings(result.answers),
        training=_training(read_own_lines(StepMetrics, run.metrics)),
        tail=record.get("config", {}).get("train", {}).get("tail"),
        facts=_facts(result, record),
        versions=record.get("versions", {}),
    )


def _template() -> str:
    return (files("promptbake") / "templates" / "report.html.j2").read_text("utf-8")


def _kl(result: VerifyResult) -> dict[str, Any]:
    """The three arms on one scale."""
    kl = result.kl
    rows = [(arm, getattr(kl, arm), kl.ci95.get(arm)) for arm in ("base", "baked", "reprompted")]
    values = [value for _, value, _ in rows] + [end for *_, ci in rows if ci for end in ci]
    return {"rows": rows, "scale": kl_scale(values)}


def _queries(result: VerifyResult) -> dict[str, Any]:
    """The held-out queries, the worst first."""
    rows = sorted(result.queries, key=lambda each: (-each.baked, each.id))
    scale = kl_scale(value for each in rows for value in (each.base, each.baked))
    worse = sum(each.baked > each.base for each in rows)
    return {"rows": rows, "scale": scale, "open": OPEN_QUERIES, "worse": worse}


def _gaps(kind: str, rows: list[sections.GapRow]) -> dict[str, Any]:
    """In their order, which has a meaning, but the sets of a shift: those are worst first."""
    if kind == "shift":
        rows.sort(key=lambda row: row.closed)
    ends = [end for row in rows for end in (row.closed, *(row.ci95 or ()))]
    worst = min(rows, key=lambda row: row.closed, default=None)
    return {"rows": rows, "scale": share_scale(ends), "worst": worst}


def _table(rows: Sequence[sections.TableRow]) -> dict[str, Any]:
    return {
        "rows": rows,
        "arms": sections.arms_of(rows),
        "differs": any(row.difference for row in rows),
    }


def _training(lines: Sequence[StepMetrics]) -> dict[str, Any]:
    """The chart of both curves, None where nothing was recorded, and how many values it lacks."""
    from promptbake.report import charts  # matplotlib takes a while to import

    losses, losses_lost = _points(lines, "loss")
    held_out, held_out_lost = _points(lines, "held_out_kl")
    window = max(1, len(losses) // 10)
    some = losses or held_out
    return {
        "chart": charts.training_curves(losses, held_out, window) if some else None,
        "loss": bool(losses),
        "held_out": bool(held_out),
        "window": window,
        "not_drawn": losses_lost + held_out_lost,
    }


def _points(lines: Sequence[StepMetrics], key: str) -> tuple[list[tuple[int, float]], int]:
    points = [(each.step, getattr(each, key)) for each in lines if getattr(each, key) is not None]
    finite = [point for point in points if math.isfinite(point[1])]
    return finite, len(points) - len(finite)


def _facts(result: VerifyResult, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, as rows of a table; what is not on record has no row."""
    stages, origin = record.get("stages", {}), result.origin
    data, bake = stages.get("data", {}), stages.get("bake", {})
    seconds = {stage: spent for stage, spent in result.seconds if spent is not None}
    rows = {
        "Measured": f"{origin.date[:16].replace('T', ' ')} UTC" if origin else "",
        "Model": result.model,
        "Backend": result.backend,
        "Adapter": result.adapter,
        "Prompt": result.prompt + _digest(data.get("inputs", {}).get("prompt")),
        "Trained on": count(data.get("conversations"), "conversation"),
        "Held out": f"{count(result.held_out.queries, 'query', 'queries')}, "
        f"{count(result.held_out.tokens, 'response token')}",
        "Steps": count(bake.get("steps"), "step"),
        "Time": ", ".join(f"{stage} {duration(spent)}" for stage, spent in seconds.items()),
        "Seed": record.get("config", {}).get("seed"),
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _digest(sha256: str | None) -> str:
    return f" (SHA-256 {sha256[:12]}…)" if sha256 else ""
