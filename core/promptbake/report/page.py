"""report.html: verify.json and the metrics for a person, in one file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from promptbake.documents.typed import read_own_lines
from promptbake.files import write_atomic
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.config import flatten
from promptbake.runs.run_folder import Run
from promptbake.types import ARM_LABELS, Arm, StepMetrics

ARM_NAMES = {arm: label.capitalize() for arm, label in ARM_LABELS.items()}
# Control characters are shown as what they are.
CONTROLS = (
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"}
    | {0x7F: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
)
NO_BREAK = "\N{NO-BREAK SPACE}"


def write(run: Run) -> None:
    """Write `run.report` from verify.json, metrics.jsonl (which may be missing) and run.json.

    Raises BakeError where there is no readable verify.json.
    """
    write_atomic(run.report, render(run, VerifyResult.load(run.verify)))


def render(run: Run, result: VerifyResult) -> str:
    """The page of a result, with the run's metrics and record; the same inputs give the same."""
    record = run.record
    template = open_environment().from_string(_template())
    return template.render(
        result=result,
        arm_names=ARM_NAMES,
        kl_chart=_kl_chart(result),
        training=_training(read_own_lines(StepMetrics, run.metrics)),
        config=record.get("config", {}),
        facts=_facts(result, record),
        settings=_settings(record.get("config", {})),
    )


def _template() -> str:
    return (files("promptbake") / "templates" / "report.html.j2").read_text("utf-8")


def open_environment() -> Environment:
    """Templates of pages: everything is escaped, and control characters are shown."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "listed": _listed}
    return environment


def _kl_chart(result: VerifyResult) -> Markup:
    from promptbake.report import charts  # matplotlib takes a while to import

    kl = result.kl
    bars: dict[Arm, float] = {"base": kl.base, "baked": kl.baked, "reprompted": kl.reprompted}
    return charts.kl_bars({ARM_NAMES[arm]: value for arm, value in bars.items()})


def _training(lines: Sequence[StepMetrics]) -> dict[str, Any]:
    """The two curves, None where nothing was recorded, and how many values could not be drawn."""
    from promptbake.report import charts

    losses, losses_lost = _points(lines, "loss")
    held_out, held_out_lost = _points(lines, "held_out_kl")
    window = max(1, len(losses) // 10)
    return {
        "loss": charts.loss_curve(losses, window) if losses else None,
        "held_out": charts.held_out_curve(held_out) if held_out else None,
        "window": window,
        "not_drawn": losses_lost + held_out_lost,
    }


def _points(lines: Sequence[StepMetrics], key: str) -> tuple[list[tuple[int, float]], int]:
    points = [(each.step, getattr(each, key)) for each in lines if getattr(each, key) is not None]
    finite = [point for point in points if math.isfinite(point[1])]
    return finite, len(points) - len(finite)


def _facts(result: VerifyResult, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, as rows of a table; what is not on record has no row."""
    stages, config = record.get("stages", {}), record.get("config", {})
    data, bake = stages.get("data", {}), stages.get("bake", {})
    seconds = {stage: spent for stage, spent in result.seconds if spent is not None}
    rows = {
        "Model": result.model,
        "Backend": result.backend,
        "Adapter": result.adapter,
        "Prompt": result.prompt + _digest(data.get("inputs", {}).get("prompt")),
        "Trained on": _count(data.get("conversations"), "conversation"),
        "Held out": f"{_count(result.held_out.queries, 'query', 'queries')}, "
        f"{_count(result.held_out.tokens, 'response token')}",
        "Steps": _count(bake.get("steps"), "step"),
        **{f"Time, {stage}": _duration(spent) for stage, spent in seconds.items()},
        "Time, in all": _duration(sum(seconds.values())),
        "Seed": config.get("seed"),
        "Versions": ", ".join(
            f"{package} {version}" for package, version in record.get("versions", {}).items()
        ),
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The settings by the keys that --set takes; a plugin's own options stay in run.json."""
    return list(flatten({key: value for key, value in config.items() if key != "options"}))


def _visible(value: Any) -> Any:
    """Text without characters that a page cannot hold or a reader cannot see."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.translate(CONTROLS)


def _percent(share: float) -> str:
    return _minus(f"{100 * share:.1f}") + f"{NO_BREAK}%"


def _number(value: float) -> str:
    if 0 < abs(value) < 0.001:
        return _minus(f"{value:.1e}")
    decimals = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return _minus(f"{value:,.{decimals}f}")


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _count(number: int | None, noun: str, nouns: str = "") -> str:
    if number is None:
        return ""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _digest(sha256: str | None) -> str:
    return f" (SHA-256 {sha256[:12]}…)" if sha256 else ""
