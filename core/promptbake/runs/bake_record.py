"""What a bake depends on and leaves: its options, its inputs on record, its adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from promptbake.distill import checkpoints
from promptbake.distill.checkpoints import CHECKPOINT
from promptbake.files import atomic_folder, digest_file, write_json
from promptbake.interfaces import BatchContext, BatchSource, Trainer
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.types import Checkpoint, Tail


@dataclass(frozen=True)
class BakeOptions:
    """What a bake may start from and learn from, beside the run's settings.

    Attributes:
        start: An earlier bake that the student starts from.
        teacher: The bake that the prompted teacher is; None for the bare base model.
        batches: Makes the source of batches; None for the stored conversations.
        force: Replace a finished bake of another profile or model.
        keep: Train no further: the last state that was saved becomes the adapter.
    """

    start: Checkpoint | None = None
    teacher: Checkpoint | None = None
    batches: Callable[[BatchContext], BatchSource] | None = None
    force: bool = False
    keep: bool = False


DEFAULTS = BakeOptions()


def bake_inputs(session: Session, options: BakeOptions, tail: Tail) -> dict[str, object]:
    """What the adapter depends on: a bake whose inputs differ is baked anew."""
    config = session.config
    train = config.train
    inputs: dict[str, object] = {
        "data": session.run.stage("data")["inputs"],
        "conversations": digest_file(session.run.data),
        "model": session.base.digest,
        "seed": config.seed,
        "teacher": config.teacher.model_dump(mode="json"),
        "train": train.model_dump(mode="json", exclude={"save_every", "eval_every", "trackers"})
        | {"tail": tail},
        "options": {
            choice.kind: session.result_options(choice)
            for choice in (config.teacher_source, config.loss, config.backend)
        },
    }
    if config.targets:
        inputs["targets"] = [target.weight for target in session.targets]
    for name, checkpoint in (("start", options.start), ("teacher_bake", options.teacher)):
        if checkpoint is not None:
            inputs[name] = checkpoints.identity(checkpoint)
    if options.batches is not None:
        inputs["batches"] = getattr(options.batches, "__qualname__", repr(options.batches))
    return inputs


def save_adapter(folder: Run, student: Trainer) -> dict[str, str]:
    """Save the student; the digests of its files."""
    with atomic_folder(folder.adapter) as new:
        checkpoint = student.save_adapter(new)
        write_json(new / CHECKPOINT, vars(checkpoint))
    return checkpoints.digests(folder.adapter)


def damaged_files(session: Session) -> list[str]:
    """What is missing of the finished adapter, or not as the bake left it."""
    adapter, recorded = session.run.adapter, session.run.stage("bake").get("adapter")
    if recorded is None:
        return [] if adapter.exists() else [adapter.name]
    return checkpoints.differing(adapter, recorded)


def clear(session: Session, changed: list[str]) -> None:
    """Delete what an earlier bake left."""
    folder = session.run
    if changed:
        session.reporter.say(f"bake: {', '.join(changed)} changed; baking anew")
    for path in (folder.checkpoints, folder.adapter):
        shutil.rmtree(path, ignore_errors=True)
    results = (folder.evidence, folder.verify, folder.junit, folder.report)
    for file in (folder.metrics, *results):
        file.unlink(missing_ok=True)
