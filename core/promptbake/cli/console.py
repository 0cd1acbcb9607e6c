"""What the command line prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from promptbake.costs import Usage
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.hookspecs import HOOKS
from promptbake.plugins.registry import Registry
from promptbake.progress.terminal import PlainConsole
from promptbake.redaction import CONTROL
from promptbake.report import diagnosis
from promptbake.runs.generation import load_dataset
from promptbake.runs.session import Session
from promptbake.types import ARM_LABELS, Checkpoint, Dataset

if TYPE_CHECKING:
    from promptbake.cli.doctor import Health
    from promptbake.report.verdict import Verdict
    from promptbake.report.verify_result import VerifyResult
    from promptbake.runs.describe import Setting
    from promptbake.runs.ledger import Ledger
    from promptbake.stages.plan import Plan


out = PlainConsole()  # what it prints is data


def print_plugins(registry: Registry, factories: Sequence[PluginFactory]) -> None:
    """What is offered, with its options, and what did not load."""
    table = Table("kind", "name", "plugin", "version", "options", box=None, pad_edge=False)
    for factory in sorted(
        factories, key=lambda factory: (list(HOOKS).index(factory.kind), factory.name)
    ):
        options = ", ".join(
            f"{option.name}: {option.type}"
            + (", required" if option.required else f" = {option.default}")
            for option in factory.options
        )
        table.add_row(factory.kind, factory.name, factory.plugin, factory.version, options)
    out.print(table)
    for line in registry.conflict_lines():
        out.print(line)
    for failure in registry.load_failures:
        out.print(f"did not load: {failure.plugin} {failure.version}: {failure.reason}")


def print_health(health: Health) -> None:
    """What is installed and set, and what is missing per profile."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")

    def section(title: str, lines: Iterable[str]) -> None:
        for number, line in enumerate(lines):
            table.add_row("" if number else title, line)

    installed = [f"{name} {version}" for name, version in health.versions.items() if version]
    missing = [name for name, version in health.versions.items() if not version]
    section("versions", [", ".join(installed), f"plugin API {health.api}"])
    section("not installed", [", ".join(missing)] if missing else [])
    section("devices", health.devices)
    there = health.cache
    state = "" if there.writable else ", and it cannot be written"
    size, free = (f"{number / 2**20:,.0f} MiB" for number in (there.bytes, there.free))
    section("cache", [f"{there.folder}: {size}; {free} free on its disk{state}"])
    section("keys", (f"{key}: {'set' if on else 'not set'}" for key, on in health.keys.items()))
    for plugin in health.plugins:
        names = "; ".join(f"{kind}: {', '.join(each)}" for kind, each in plugin.factories.items())
        section("plugins" if plugin is health.plugins[0] else "",
                [f"{plugin.name} {plugin.version} ({names})"])  # fmt: skip
    section("did not load", (f"{a.plugin} {a.version}: {a.reason}" for a in health.load_failures))
    section("conflicts", health.conflicts)
    for name, problems in health.profiles.items():
        section(f"profile {name}", problems or ("ready",))
    out.print(table)


def print_config(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Every value, and where it came from."""
    table = Table("key", "value", "source", box=None, pad_edge=False)
    for key, value in values.items():
        table.add_row(key, json.dumps(value), sources[key])
    out.print(table)


def print_settings(settings: Sequence[Setting], as_json: bool) -> None:
    """Every key with its type, default and meaning."""
    if as_json:
        print_json(
            {each.key: {k: v for k, v in vars(each).items() if k != "key"} for each in settings}
        )
        return
    for each in settings:
        out.print(f"{each.key}: {each.type} = {each.default}", style="bold", soft_wrap=True)
        if each.meaning:
            out.print(f"    {each.meaning}", soft_wrap=True)


def show_data(session: Session, dataset: Dataset) -> None:
    """How many conversations there are, and the usage so far."""
    out.print(
        f"{session.run.data}: {len(dataset.training)} conversations to train on, "
        f"{len(dataset.held_out)} held out",
        soft_wrap=True,
    )
    for line in diagnosis.describe_data(dataset.training, session.config.data.max_tokens):
        out.print(line, soft_wrap=True)
    print_spent(session.budget)


def show_bake(session: Session, checkpoint: Checkpoint) -> None:
    """Where the adapter is, and the usage so far."""
    stage = session.run.stage("bake")
    how = f"baked in {stage['steps']} steps"
    if "planned_steps" in stage:
        how = f"stopped early, after {stage['steps']} of {stage['planned_steps']} steps"
    out.print(f"{session.run.adapter}: {how}", soft_wrap=True)
    print_spent(session.budget)


def show_verify(session: Session, result: VerifyResult) -> None:
    """The arms' KL, and whether the gap closed reaches its threshold."""
    kl = result.kl
    table = Table("arm", f"KL from the prompted model ({kl.unit})", box=None, pad_edge=False)
    for arm, value in (("base", kl.base), ("baked", kl.baked), ("re-prompted", kl.reprompted)):
        table.add_row(arm, f"{value:.4f}")
    out.print(table)
    for target, each in result.targets.items():
        gap = "" if each.gap_closed is None else f", gap closed {each.gap_closed:.3f}"
        line = f"target {target}: base {each.base:.4f}, baked {each.baked:.4f}{gap}"
        out.print(line, soft_wrap=True)
    for name, measurement in result.evaluators.items():
        means = measurement.means.items()
        values = ", ".join(f"{ARM_LABELS[arm]} {value:.4g}" for arm, value in means)
        out.print(f"{name} ({measurement.unit}): {values}", soft_wrap=True)
    for name, control in result.controls.items():
        how = "refused, as it must be" if control.refused else "NOT refused"
        out.print(
            f"control {name}: gap closed {control.gap_closed:.3f}: {how}",
            soft_wrap=True,
        )
    verdict = "passed" if result.thresholds["kl.gap_closed"].passed else "FAILED"
    threshold = result.thresholds["kl.gap_closed"].min
    interval = "no interval"
    if kl.gap_closed_ci95 is not None:
        interval = "95 % interval {:.3f} to {:.3f}".format(*kl.gap_closed_ci95)
    out.print(
        f"gap closed on {result.held_out.queries} held-out queries: {kl.gap_closed:.3f} "
        f"({interval}); threshold {threshold:g}: {verdict}",
        soft_wrap=True,
    )
    if not result.passed:
        training = load_dataset(session).training
        epochs = session.config.train.epochs
        out.print(diagnosis.explain_failure(result, training, epochs), soft_wrap=True)
    _show_verdict(result.verdict)
    out.print(str(session.run.report), soft_wrap=True)
    print_spent(session.budget)


def _show_verdict(verdict: Verdict) -> None:
    """The verdict, what decided it, and which margins are not as they were before training."""
    for line in verdict.reasons or [each.line for each in verdict.decided_by]:
        out.print(f"  {line}", soft_wrap=True)
    for line in verdict.margins_changed:
        out.print(f"margin changed: {line}", soft_wrap=True)
    out.print(f"verdict: {verdict.outcome}", soft_wrap=True)


def show_report(session: Session, report: Path) -> None:
    """Where the report is."""
    out.print(str(report), soft_wrap=True)


def show_export(session: Session, folder: Path) -> None:
    """Where the adapter is."""
    out.print(f"{folder}: a PEFT adapter for {session.base.name}", soft_wrap=True)


def show_plan(session: Session, plan: Plan) -> None:
    """What the job will cost, and the usage so far."""
    amounts = {"calls": "calls", "input_tokens": "input", "cached_input_tokens": "cached"}
    amounts |= {"output_tokens": "output", "train_tokens": "train"}
    table = Table("work", *amounts.values(), "dollars", "minutes", box=None, pad_edge=False)
    for row in plan.rows:
        usage, spent = row.estimate.usage, row.spent
        dollars = f"{usage.dollars:.4f}" if row.estimate.priced else "?"
        predicted = [f"{getattr(usage, name):,}" for name in amounts]
        table.add_row(row.key, *predicted, dollars, _minutes(row.estimate.seconds))
        if spent:
            actual = [f"{getattr(spent, name):,}" for name in amounts]
            table.add_row("  so far", *actual, _dollars(spent), "", style="dim")
    out.print(table)
    dollars = "an unknown price" if plan.dollars is None else f"${plan.dollars:.4f}"
    out.print(f"in all: {dollars}, {_minutes(plan.seconds)} minutes; {plan.basis}", soft_wrap=True)
    if plan.memory_bytes:
        out.print(f"memory: about {plan.memory_bytes / 1e9:.1f} GB on this machine", soft_wrap=True)
    if plan.spent or plan.unpriced_calls:
        spent = Usage(dollars=plan.spent, unpriced_calls=plan.unpriced_calls)
        out.print(f"spent so far: {_dollars(spent, '$')}", soft_wrap=True)
    if plan.max_dollars is not None:
        out.print(f"budget.max_dollars: ${plan.max_dollars:.4f}", soft_wrap=True)
    for source in plan.sources:
        out.print(f"prices: {source}", soft_wrap=True)


def print_spent(ledger: Ledger) -> None:
    """What has been spent, where anything has."""
    work = ledger.by_work()
    total = sum(work.values(), Usage())
    if total.dollars or total.unpriced_calls:
        spent = ", ".join(f"{what} {_dollars(usage, '$')}" for what, usage in work.items())
        out.print(f"spent so far: {_dollars(total, '$')} ({spent})", soft_wrap=True)


def _dollars(usage: Usage, sign: str = "") -> str:
    """The dollars, or that they are not known."""
    if usage.unpriced_calls and not usage.dollars:
        return "unknown"
    more = f" and {usage.unpriced_calls:,} calls of unknown price" if usage.unpriced_calls else ""
    return f"{sign}{usage.dollars:.4f}{more}"


def print_json(value: Any) -> None:
    """JSON without colours, in which a control character is an escape."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    print(CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text))  # noqa: T201


def _minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 60:.1f}"


SHOW: Mapping[str, Callable[[Session, Any], None]] = {
    "data": show_data,
    "bake": show_bake,
    "verify": show_verify,
    "report": show_report,
    "plan": show_plan,
    "export": show_export,
}
