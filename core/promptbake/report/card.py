"""adapter/README.md: the adapter's model card, in the form that the Hugging Face Hub shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from promptbake.report.evidence import Evidence
from promptbake.report.markdown import escape, fenced, table
from promptbake.report.measured import DifferenceResult, Interval, MeasurementResult
from promptbake.report.verify_result import VerifyResult
from promptbake.types import ARM_LABELS, ARMS, Arm
from promptbake.version import __version__

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # of a model on the Hub
TAGS = ("promptbake", "lora", "prompt-baking", "prompt-distillation")
KL_ARMS: tuple[Arm, ...] = ("base", "baked", "reprompted")
LOAD = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base}
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base)
model = PeftModel.from_pretrained(model, {adapter})
```"""


def render(result: VerifyResult, evidence: Evidence) -> str:
    """The card: front matter, verdict, numbers, how to load it, how it was made, its limits.

    It has no license: that is for whoever publishes it to say. The prompt is quoted unless
    `report.show_prompt` is false.
    """
    parts = [
        _front_matter(evidence.model),
        f"# {escape(result.prompt)}, baked into {escape(result.model)}",
        "A LoRA adapter that answers without the system prompt as the model does with it (Prompt "
        "Baking, arXiv 2409.13697). Written by promptbake.",
        *_prompt(evidence),
        "## Verdict",
        *_verdict(result),
        "## Measured",
        *_measured(result),
        "## Load it",
        *_load(evidence),
        "## How it was made",
        "\n".join(_made(evidence)),
        "## Limits",
        "\n".join(_limits(result)),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(model: str) -> str:
    # A JSON text is YAML, too, and needs no rules of its own for quotes.
    values: dict[str, object] = {"library_name": "peft", "tags": list(TAGS)}
    if HUB_ID.fullmatch(model):
        values = {"base_model": model, **values}
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(("---", *lines, "---"))


def _prompt(evidence: Evidence) -> Iterator[str]:
    if (text := evidence.main.teacher.text) is not None:
        yield "## The prompt"
        yield fenced(text)


def _verdict(result: VerifyResult) -> Iterator[str]:
    verdict = result.verdict
    passed = "passed" if result.passed else "did NOT pass"
    yield f"**{verdict.outcome}**; `promptbake verify` {passed}."
    rows = [
        [
            escape(each.measurement),
            f"{each.value:.3f}",
            _interval(each.ci90),
            f"{each.bound} {each.limit:g}",
            "passed" if each.passed else "exceeded" if each.refuted else "not shown",
        ]
        for each in verdict.decided_by
    ]
    yield table(["measurement", "value", "90 % interval", "margin", "result"], rows)
    lines = [*verdict.reasons, *(f"margin changed: {each}" for each in verdict.margins_changed)]
    if lines:
        yield "\n".join(f"- {escape(line)}" for line in lines)


def _measured(result: VerifyResult) -> Iterator[str]:
    kl, held_out = result.kl, result.held_out
    yield (
        f"On {held_out.queries} queries that were never trained on ({held_out.tokens} response "
        f"tokens), the distance from the prompted model, KL(prompted || arm) in {kl.unit}:"
    )
    rows = [
        [ARM_LABELS[arm], f"{getattr(kl, arm):.4f}", _interval(kl.ci95.get(arm), 4)]
        for arm in KL_ARMS
    ]
    yield table(["model", "KL", "95 % interval"], rows)
    yield (
        f"Gap closed: {kl.gap_closed:.3f}, 95 % interval {_interval(kl.gap_closed_ci95)} (0 is no "
        "bake, 1 is the prompt itself)."
    )
    if result.evaluators:
        header = ["measurement", "unit", *(ARM_LABELS[arm] for arm in ARMS)]
        rows = [_means(name, each) for name, each in result.evaluators.items()]
        yield table([*header, "baked minus prompted (95 % interval)"], rows)
    for name, control in result.controls.items():
        how = "refused, as it must be" if control.refused else "NOT refused"
        yield f"Control {escape(name)}: gap closed {control.gap_closed:.3f}, {how}."


def _means(name: str, measurement: MeasurementResult) -> list[str]:
    means = measurement.means
    cells = [f"{means[arm]:.4g}" if arm in means else "" for arm in ARMS]
    difference = _difference(measurement.baked_minus_prompted)
    return [escape(name), escape(measurement.unit), *cells, difference]


def _difference(difference: DifferenceResult | None) -> str:
    if difference is None:
        return ""
    return f"{difference.mean:+.3f} ({_interval(difference.ci95)})"


def _interval(interval: Interval | None, decimals: int = 3) -> str:
    if interval is None:
        return "no interval"
    return f"{interval[0]:.{decimals}f} to {interval[1]:.{decimals}f}"


def _load(evidence: Evidence) -> Iterator[str]:
    known = HUB_ID.fullmatch(evidence.model)
    base = evidence.model if known else "the folder or hub id of the base model"
    if not known:
        yield f"The base model is called {escape(evidence.model)} by promptbake."
    yield LOAD.format(base=json.dumps(base), adapter=json.dumps("this folder, or its hub id"))
    if "://" in evidence.adapter:
        yield "Its weights are with a service; `promptbake export` writes them to a folder."
    student = evidence.main.student.text
    if student == "":
        yield "Give no system prompt."
    else:
        yield "It was baked for a system prompt of its own, which it still needs."
        if student is not None:
            yield fenced(student)


def _made(evidence: Evidence) -> Iterator[str]:
    record: Any = evidence.record
    config: Any = evidence.config
    stages: Mapping[str, Any] = record.get("stages", {})
    data, bake, train = stages.get("data", {}), stages.get("bake", {}), config.get("train", {})
    values = {
        "conversations": data.get("conversations"),
        "steps": bake.get("steps"),
        "rank": train.get("rank"),
        "learning rate": train.get("lr"),
        "batch size": train.get("batch_size"),
        "loss": train.get("loss"),
        "tokens outside the top K": bake.get("tail", {}).get("tail"),
        "backend": evidence.backend,
        "seed": config.get("seed"),
        "seconds of data, bake, verify": _seconds(evidence),
        "promptbake": record.get("versions", {}).get("promptbake", __version__),
    }
    for name, value in values.items():
        if value is not None:
            yield f"- {name}: {escape(str(value))}"


def _seconds(evidence: Evidence) -> str:
    values: Sequence[float | None] = [value for _, value in evidence.seconds]
    return ", ".join("unknown" if value is None else f"{value:.1f}" for value in values)


def _limits(result: VerifyResult) -> Iterator[str]:
    yield (
        f"- The numbers hold for queries like the {result.held_out.queries} that were held out; "
        "other tasks, languages and long conversations may be further from the prompted model, "
        "unless a measurement above covers them."
    )
    if result.kl.kind == "top_k_bucket":
        yield "- The KL is a lower bound: it is over the top tokens and one bucket for the rest."
    yield "- A low KL is not the same as a fact learned: test what the prompt states."
    yield "- Its limits, biases and license are those of the base model, and what you add to them."
