"""Several runs side by side: their verify.json, the settings that differ, paired differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptbake.dataset import conversations
from promptbake.errors import BakeError
from promptbake.evaluate.statistics import Difference, paired_difference
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.config import flatten
from promptbake.runs.run_folder import Run
from promptbake.types import ARM_LABELS, Arm, Message

NOTHING = "-"
DIFFERING = "settings that differ"
KINDS = {"full": "the whole vocabulary", "top_k_bucket": "the top K and a bucket"}
KL_ARMS: tuple[Arm, ...] = ("base", "baked", "reprompted")


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        folder: The run's folder, as it was given.
        result: Its verify.json.
        settings: All settings on record, by dotted key; the plugins' options are among them.
        held_out: The turns of its held-out conversations; empty where they are missing.
    """

    folder: Path
    result: VerifyResult
    settings: Mapping[str, Any]
    held_out: frozenset[tuple[Message, ...]]

    @classmethod
    def load(cls, folder: Path) -> ComparedRun:
        """Read a run. Raises BakeError where it is none, or has no readable verify.json."""
        run = Run(folder)
        if not run.record:
            raise BakeError(f"{folder}: is no run, since it has no {Run.RECORD}")
        held_out = conversations.read(run.held_out) if run.held_out.is_file() else ()
        return cls(
            folder,
            VerifyResult.load(run.verify),
            dict(flatten(run.record.get("config", {}))),
            frozenset(each.messages for each in held_out),
        )


@dataclass(frozen=True)
class Row:
    """One line of the table: a value a run."""

    group: str
    name: str
    cells: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """Several runs, each beside the first."""

    runs: tuple[ComparedRun, ...]

    @property
    def results(self) -> list[VerifyResult]:
        """The verify.json of each."""
        return [run.result for run in self.runs]

    @property
    def evaluators(self) -> list[str]:
        """The names of all measurements, in the order in which they first appear."""
        return list(dict.fromkeys(name for each in self.results for name in each.evaluators))

    @property
    def same_held_out(self) -> bool:
        """Whether all were measured on the same held-out responses."""
        return all(run.held_out == self.runs[0].held_out != frozenset() for run in self.runs)

    @property
    def differing_settings(self) -> dict[str, list[Any]]:
        """The values of each setting that is not the same in all; None where it is not set."""
        keys = dict.fromkeys(key for run in self.runs for key in run.settings)
        values = {key: [run.settings.get(key) for run in self.runs] for key in keys}
        return {key: each for key, each in values.items() if any(one != each[0] for one in each)}

    def differences(self, name: str) -> list[Difference | None]:
        """A measurement's baked scores minus the first run's, item by item, of each later run.

        None where the two runs did not measure the same items.
        """
        first, *others = self.results
        return [_difference(each, first, name) for each in others]

    @property
    def notes(self) -> list[str]:
        """What to bear in mind about the numbers."""
        if self.same_held_out:
            return [
                "The held-out responses are the same in all. verify.json holds no KL by query, so "
                "the difference of two gaps has no interval here."
            ]
        return ["The held-out responses are not the same in all: compare KL and gap with care."]

    def as_json(self) -> dict[str, Any]:
        """What `promptbake compare --json` prints: verify.json of each without texts and scores."""
        return {
            "runs": [{"run": str(run.folder)} | _brief(run.result) for run in self.runs],
            "same_held_out": self.same_held_out,
            "differing_settings": self.differing_settings,
            "minus_first": {
                name: [None if each is None else _difference_json(each) for each in found]
                for name in self.evaluators
                if any(found := self.differences(name))
            },
        }


def compare(*runs: str | Path) -> Comparison:
    """Compare runs that `verify` has measured.

    Raises:
        BakeError: There are fewer than two, or one is no run, or has no readable verify.json.
    """
    if len(runs) < 2:
        raise BakeError(f"compare: {len(runs)} run is given; give the folders of two or more")
    return Comparison(tuple(ComparedRun.load(Path(run)) for run in runs))


def table(comparison: Comparison) -> list[Row]:
    """All numbers as text, in the order in which they are shown."""
    return [
        *_identity(comparison),
        *_distance(comparison),
        *_measurements(comparison),
        *_verdicts(comparison),
        *_settings(comparison),
    ]


def interval(value: float | None, ci95: tuple[float, float] | None, sign: str = "") -> str:
    """A value with its 95 % interval, as far as there is one."""
    if value is None:
        return NOTHING
    shown = f"{value:{sign}.3f}"
    return shown if ci95 is None else f"{shown} ({ci95[0]:.3f} to {ci95[1]:.3f})"


def _identity(comparison: Comparison) -> Iterator[Row]:
    results = comparison.results
    for name in ("prompt", "model", "backend"):
        yield Row("run", name, [getattr(each, name) for each in results])
    counts = [each.held_out for each in results]
    yield Row(
        "run", "held out", [f"{each.queries} queries, {each.tokens} tokens" for each in counts]
    )


def _distance(comparison: Comparison) -> Iterator[Row]:
    kls, group = [each.kl for each in comparison.results], "KL from the prompted model (nats/token)"
    for arm in KL_ARMS:
        yield Row(group, ARM_LABELS[arm], [f"{getattr(each, arm):.4f}" for each in kls])
    yield Row(group, "summed over", [KINDS[each.kind] for each in kls])
    gaps = [interval(each.gap_closed, each.gap_closed_ci95) for each in kls]
    yield Row("gap closed (95 % interval)", "held-out queries", gaps)
    targets = dict.fromkeys(name for each in comparison.results for name in each.targets)
    for name in targets:
        parts = [each.targets.get(name) for each in comparison.results]
        shown = [interval(part.gap_closed if part else None, None) for part in parts]
        yield Row("gap closed (95 % interval)", f"target {name}", shown)


def _measurements(comparison: Comparison) -> Iterator[Row]:
    for name in comparison.evaluators:
        found = [each.evaluators.get(name) for each in comparison.results]
        known = [each for each in found if each is not None]
        better = f", {known[0].better} is better" if known[0].better else ""
        unit = " / ".join(dict.fromkeys(each.unit for each in known))
        means = [each.baked if each else None for each in found]
        cells = [NOTHING if mean is None else f"{mean:.4g}" for mean in means]
        yield Row("baked model", f"{name} ({unit}{better})", cells)
        differences = comparison.differences(name)
        if any(differences):
            shown = [
                interval(each.mean, each.ci95, "+") if each else NOTHING for each in differences
            ]
            yield Row("baked model", f"{name}, minus the first run's", [NOTHING, *shown])


def _verdicts(comparison: Comparison) -> Iterator[Row]:
    results = comparison.results
    for name in dict.fromkeys(name for each in results for name in each.thresholds):
        found = [each.thresholds.get(name) for each in results]
        cells = [
            f"{each.min:g}: {'passed' if each.passed else 'FAILED'}" if each else NOTHING
            for each in found
        ]
        yield Row("threshold", name, cells)
    yield Row("verify", "passed", ["yes" if each.passed else "NO" for each in results])
    for stage in ("data", "bake", "verify"):
        spent = [getattr(each.seconds, stage) for each in results]
        cells = [NOTHING if each is None else f"{each:.1f}" for each in spent]
        yield Row("seconds", stage, cells)


def _settings(comparison: Comparison) -> Iterator[Row]:
    for key, values in comparison.differing_settings.items():
        cells = [
            NOTHING if each is None else json.dumps(each, ensure_ascii=False) for each in values
        ]
        yield Row(DIFFERING, key, cells)


def _difference(later: VerifyResult, first: VerifyResult, name: str) -> Difference | None:
    scores, others = (
        each.evaluators[name].scores.get("baked", {}) if name in each.evaluators else {}
        for each in (later, first)
    )
    questions, earlier = ({a.id: a.question for a in each.answers} for each in (later, first))
    same = all(questions.get(item) == earlier.get(item) for item in scores)
    return paired_difference(scores, others) if same and scores.keys() == others.keys() else None


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {"mean": difference.mean, "ci95": difference.ci95, "items": difference.items}


def _brief(result: VerifyResult) -> dict[str, Any]:
    record = result.as_json()
    del record["answers"]
    for measurement in record["evaluators"].values():
        del measurement["scores"]
    return record
