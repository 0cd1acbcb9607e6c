"""What the command line prints as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.hookspecs import HOOKS
from promptbake.plugins.registry import Registry
from promptbake.types import ARMS

if TYPE_CHECKING:
    from promptbake.cli.doctor import Health
    from promptbake.runs.ledger import Ledger
    from promptbake.runs.run_folder import Run
    from promptbake.stages.plan import Plan


def print_plugins(registry: Registry, offers: Sequence[PluginFactory], out: Console) -> None:
    """What is offered, with its options, and what did not load."""
    table = Table("kind", "name", "plugin", "version", "options", box=None, pad_edge=False)
    for offer in sorted(offers, key=lambda offer: (list(HOOKS).index(offer.kind), offer.name)):
        options = ", ".join(
            f"{option.name}: {option.type}"
            + (", required" if option.required else f" = {option.default}")
            for option in offer.options
        )
        table.add_row(offer.kind, offer.name, offer.plugin, offer.version, options)
    out.print(table)
    for line in registry.conflict_lines():
        out.print(line, markup=False)
    for aside in registry.set_aside:
        out.print(f"did not load: {aside.plugin} {aside.version}: {aside.reason}", markup=False)


def print_health(health: Health, out: Console) -> None:
    """What is installed, set and at hand, and what each profile lacks."""
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
        names = "; ".join(f"{kind}: {', '.join(each)}" for kind, each in plugin.offers.items())
        section("plugins" if plugin is health.plugins[0] else "",
                [f"{plugin.name} {plugin.version} ({names})"])  # fmt: skip
    section("did not load", (f"{a.plugin} {a.version}: {a.reason}" for a in health.set_aside))
    section("conflicts", health.conflicts)
    for name, lacks in health.profiles.items():
        section(f"profile {name}", lacks or ("ready",))
    out.print(table)


def print_config(values: Mapping[str, Any], sources: Mapping[str, str], out: Console) -> None:
    """Every value, and where it came from."""
    table = Table("key", "value", "source", box=None, pad_edge=False)
    for key, value in values.items():
        table.add_row(key, json.dumps(value), sources[key])
    out.print(table)


def print_proof(run: Run, result: Mapping[str, Any], out: Console) -> None:
    """The arms' KL, and whether the gap that is closed reaches its bar."""
    kl = result["kl"]
    low, high = kl["gap_closed_ci95"]
    table = Table("arm", f"KL from the prompted model ({kl['unit']})", box=None, pad_edge=False)
    for arm in ("base", "baked", "reprompted"):
        table.add_row(arm, f"{kl[arm]:.4f}")
    out.print(table)
    for name, found in result["evaluators"].items():
        values = ", ".join(f"{arm} {found[arm]:.4g}" for arm in ARMS if arm in found)
        out.print(f"{name} ({found['unit']}): {values}", soft_wrap=True)
    verdict = "passed" if result["passed"] else "FAILED"
    bar = result["bars"]["kl.gap_closed"]["min"]
    out.print(
        f"gap closed on {result['held_out']['queries']} held-out queries: "
        f"{kl['gap_closed']:.3f} (95 % interval {low:.3f} to {high:.3f}); "
        f"bar {bar:g}: {verdict}",
        soft_wrap=True,
    )
    out.print(str(run.report), soft_wrap=True)


def print_plan(plan: Plan, out: Console) -> None:
    """What the job will take, and what it has come to so far."""
    amounts = {"calls": "calls", "prefill": "prefill", "cached_input_tokens": "cached"}
    amounts |= {"sampled": "sampled", "trained": "trained"}
    table = Table("work", *amounts.values(), "dollars", "minutes", box=None, pad_edge=False)
    for row in plan.rows:
        usage, spent = row.estimate.usage, row.spent
        dollars = f"{usage.dollars:.4f}" if row.estimate.priced else "?"
        predicted = [f"{getattr(usage, name):,}" for name in amounts]
        table.add_row(row.key, *predicted, dollars, _minutes(row.estimate.seconds))
        if spent:
            actual = [f"{getattr(spent, name):,}" for name in amounts]
            table.add_row("  so far", *actual, f"{spent.dollars:.4f}", "", style="dim")
    out.print(table)
    dollars = "an unknown price" if plan.dollars is None else f"${plan.dollars:.4f}"
    out.print(f"in all: {dollars}, {_minutes(plan.seconds)} minutes; {plan.basis}", soft_wrap=True)
    if plan.spent:
        out.print(f"spent so far: ${plan.spent:.4f}", soft_wrap=True)
    if plan.max_dollars is not None:
        out.print(f"budget.max_dollars: ${plan.max_dollars:.4f}", soft_wrap=True)
    for source in plan.sources:
        out.print(f"prices: {source}", soft_wrap=True)


def print_spent(ledger: Ledger, out: Console) -> None:
    """What has been spent, where anything has."""
    if ledger.dollars:
        spent = ", ".join(
            f"{what} ${usage.dollars:.4f}" for what, usage in ledger.by_work().items()
        )
        out.print(f"spent so far: ${ledger.dollars:.4f} ({spent})", soft_wrap=True)


def _minutes(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds / 60:.1f}"
