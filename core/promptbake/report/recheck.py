"""Recompute what a verified run says from the files of its folder, and name what differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptbake.distill.measurement_store import StoredLine, read_stored
from promptbake.documents.text import read_bytes
from promptbake.documents.typed import parse_json
from promptbake.errors import BakeError
from promptbake.files import SEAL
from promptbake.report.differences import Difference, Tolerance, differences
from promptbake.report.evidence import ConversationKL, Evidence, kl_of
from promptbake.report.run_files import changed_files, changed_renderings
from promptbake.report.summary import KLByTarget, summarise
from promptbake.report.verify_result import VerifyResult
from promptbake.runs.run_folder import Run
from promptbake.types import ARMS, Arm, KLByConversation

# Between two measurements by the models: rounding on other hardware, and other batches.
BY_MODELS = Tolerance(absolute=1e-3, relative=0.01)
BY_MODELS_NAME = "verify.json by the models"
# The last: numbers of it, in words.
NOT_MEASURED = ("seconds", "origin", "adapter", "verdict.reasons")


@dataclass(frozen=True)
class Recheck:
    """What a run says that does not follow from its files.

    Attributes:
        run: The run's folder.
        numbers: How many values of verify.json were recomputed.
        differences: Each value that is not what was recomputed.
        by_models: How many values were measured again by the models; None where none were.
    """

    run: Path
    numbers: int
    differences: Sequence[Difference]
    by_models: int | None = None

    @property
    def passed(self) -> bool:
        """Whether there is no difference."""
        return not self.differences

    def joined(self, by_models: Recheck) -> Recheck:
        """The same, with what was measured again by the models."""
        found = [*self.differences, *by_models.differences]
        return replace(self, differences=found, by_models=by_models.numbers)

    def without_models(self, reason: str) -> Recheck:
        """The same, where the models could not be measured again."""
        failure = Difference(f"{BY_MODELS_NAME}: not measured: {reason}", "a result", "nothing")
        return replace(self, differences=[*self.differences, failure], by_models=0)

    def as_json(self) -> dict[str, Any]:
        """What `promptbake recheck --json` prints."""
        record: dict[str, Any] = {"run": str(self.run), "passed": self.passed}
        record["recomputed"] = self.numbers
        if self.by_models is not None:
            record["measured_again"] = self.by_models
            record["tolerance"] = vars(BY_MODELS)
        return record | {"differences": [vars(each) for each in self.differences]}


def recheck(folder: str | Path) -> Recheck:
    """Recompute every number of a run's verify.json, its page and its card, from its folder alone.

    Raises:
        BakeError: The folder is no run, or `verify` has not measured it.
    """
    run = Run(Path(folder))
    evidence = load_evidence(run)
    lines = read_stored(run.measurements)
    found = list[Difference]()
    if not evidence.is_as_written:
        found.append(Difference(f"{run.evidence.name}: {SEAL}", evidence.check, "another"))
    kl_by_target, missing = _measured(evidence, lines)
    result = summarise(evidence, kl_by_target)
    stored, recomputed = stored_result(run), as_read(result)
    found += missing
    found += differences(stored, recomputed, run.verify.name)
    found += changed_files(run, evidence, lines)
    found += changed_renderings(run, evidence, result)
    return Recheck(run.path, sum(1 for _ in leaves(recomputed)), found)


def compare_measured(run: Run, evidence: Evidence, kl_by_target: KLByTarget) -> Recheck:
    """verify.json beside what the models were measured to be just now.

    Args:
        run: The run.
        evidence: What was measured now.
        kl_by_target: The KL of each target and arm, measured now.
    """
    stored, now = stored_result(run), as_read(summarise(evidence, kl_by_target))
    for path in NOT_MEASURED:
        for result in (stored, now):
            _drop(result, path)
    found = list(differences(stored, now, BY_MODELS_NAME, BY_MODELS))
    return Recheck(run.path, sum(1 for _ in leaves(now)), found)


def load_evidence(run: Run) -> Evidence:
    """The evidence of a verified run. Raises BakeError for what is none."""
    if not run.record:
        raise BakeError(f"{run.path}: is no run, since it has no {Run.RECORD}")
    return Evidence.load(run.evidence)


def stored_result(run: Run) -> dict[str, Any]:
    """verify.json as it is, whatever was changed in it."""
    if not run.verify.exists():
        raise BakeError(f"{run.verify}: does not exist; run `promptbake verify` again")
    return parse_json(dict[str, Any], read_bytes(run.verify), str(run.verify))


def as_read(result: VerifyResult) -> dict[str, Any]:
    """What is read from a verify.json that holds this result."""
    read: dict[str, Any] = json.loads(json.dumps(result.as_json()))
    return read


def leaves(value: Any) -> Iterator[Any]:
    """The numbers, texts and flags of a JSON value."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    else:
        yield value


def measured_kl(evidence: Evidence, run: Run) -> KLByTarget:
    """The KL of each target and arm, token by token, as the run's measurements.jsonl has it."""
    return _measured(evidence, read_stored(run.measurements))[0]


def _measured(
    evidence: Evidence, lines: Sequence[StoredLine]
) -> tuple[KLByTarget, list[Difference]]:
    """The KL token by token, as measurements.jsonl has it; and what it does not have."""
    kls = [line.kl for line in lines if line.kl is not None]
    answers = {line.answer for line in lines}
    missing = list[Difference]()
    by_target: dict[str, dict[Arm, KLByConversation]] = {}
    for target in evidence.targets:
        by_target[target.name] = {}
        for arm in _arms(target.held_out):
            what = f"KL of the arm {arm}" + (f", target {target.name}" if target.name else "")
            kl = kl_of(target.held_out, arm)
            by_target[target.name][arm] = next((e for e in kls if _begins(e, kl, whole=True)), kl)
            missing += _absent(what, kl, kls, whole=True)
    for control in evidence.controls:
        for arm in _arms(control.conversations):
            kl = kl_of(control.conversations, arm)
            missing += _absent(f"KL of the control {control.name}, {arm}", kl, kls, whole=False)
    for answer in evidence.answers:
        for arm in ARMS:
            if (text := getattr(answer, arm)) is not None and text not in answers:
                what = f"measurements.jsonl: answer of {arm} to {answer.id}"
                missing.append(Difference.between(what, text, None))
    return by_target, missing


def _arms(rows: Sequence[ConversationKL]) -> list[Arm]:
    return [arm for arm in ARMS if rows and arm in rows[0].nats]


def _begins(stored: KLByConversation, kl: KLByConversation, *, whole: bool) -> bool:
    """Whether the first conversations of what is stored are these; all of them where `whole`."""
    count = len(kl.nats)
    same = (stored.nats[:count], stored.tokens[:count]) == (kl.nats, kl.tokens)
    return same and (not whole or len(stored.nats) == count)


def _absent(
    what: str, kl: KLByConversation, kls: Iterable[KLByConversation], *, whole: bool
) -> Iterator[Difference]:
    """What is not in the store; with the conversation that differs, where but one does."""
    kls = list(kls)
    if any(_begins(each, kl, whole=whole) for each in kls):
        return
    for each in kls:
        pairs = list(enumerate(zip(kl.nats, each.nats, strict=False)))
        others = [(row, pair) for row, pair in pairs if pair[0] != pair[1]]
        if each.tokens[: len(kl.tokens)] == kl.tokens and len(others) == 1:
            row, (before, now) = others[0]
            yield Difference.between(f"measurements.jsonl: {what}: nats[{row}]", now, before)
            return
    yield Difference(f"measurements.jsonl: {what}", "nothing", f"{kl.per_token} nats/token")


def _drop(value: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for name in parents:
        value = value.get(name, {})
    value.pop(last, None)
