"""What is done before any clock starts: the held-out set, and the task in token ids."""

from __future__ import annotations

from pathlib import Path

from local_bench.records import HeldOutRow, Job, Request, Task
from promptbake.dataset.alignment import align_all, common_prefix
from promptbake.files import digest_file, write_atomic
from promptbake.progress import Reporter, SilentReporter
from promptbake.runs.generation import load_dataset
from promptbake.runs.session import Session, open_session
from promptbake.stages import data
from promptbake_torch import embedded

NEVER = 10**6  # steps


def session_of(
    job: Job, run: Path, reporter: Reporter | None = None, settings: tuple[str, ...] = ()
) -> Session:
    """A session of promptbake's with the benchmark's settings, on the CPU."""
    return open_session(
        Path(job.prompt),
        profile="local",
        config_file=None,
        settings=(
            f"seed={job.seed}",
            f"train.save_every={NEVER}",
            "options.backends.torch.device=cpu",
            *job.settings,
            *settings,
        ),
        run=run,
        reporter=reporter or SilentReporter(),
    )


def prepare(job: Job) -> Task:
    """Sample the held-out responses where they are not there yet, and write the task."""
    session = session_of(job, job.prepared)
    with session.stage_lock("data"):
        data.run(session)
    task = _task(session)
    write_atomic(job.task_file, task.model_dump_json())
    return task


def _task(session: Session) -> Task:
    dataset, base, config = load_dataset(session), session.base, session.config
    (target,) = session.targets
    renderer = base.renderer
    requests = [
        Request(
            student=tuple(renderer.prompt(each.messages[:-1], target.student.system)),
            teacher=tuple(renderer.prompt(each.messages[:-1], target.teacher.system)),
            temperature=float(each.meta["temperature"] or 0.0),
        )
        for each in sorted(dataset.training, key=lambda conversation: conversation.id)
    ]
    held_out = [
        HeldOutRow(student=each.student_ids, teacher=each.teacher_ids, n_response=each.n_response)
        for each in align_all(dataset.held_out, session.targets, base)
    ]
    layers, head = _weights(session)
    folder = embedded.folder() if config.model.name == embedded.NAME else Path(config.model.name)
    options = config.options_of(config.backend)
    return Task(
        model=str(folder),
        prompt_tokens=len(common_prefix([request.teacher for request in requests])),
        stop_ids=tuple(sorted(renderer.stop_ids)),
        requests=tuple(requests),
        held_out=tuple(held_out),
        held_out_digest=digest_file(session.run.held_out),
        rank=config.train.rank,
        alpha=float(str(options.get("alpha", config.train.rank))),
        lr=config.train.lr,
        batch_size=config.train.batch_size,
        max_tokens=config.data.max_tokens,
        epochs=config.train.epochs,
        top_k=config.teacher.top_k,
        layer_weights=layers,
        head_weights=head,
    )


def _weights(session: Session) -> tuple[int, int]:
    """Weights of the layers' matrices, and of the output layer."""
    module = session.base.engine.module  # type: ignore[attr-defined]
    head = module.get_output_embeddings().weight.numel()
    embedded_tokens = module.get_input_embeddings().weight
    layers = sum(
        each.numel()
        for name, each in module.named_parameters()
        if each.dim() == 2 and each is not embedded_tokens and not name.startswith("lm_head")
    )
    return layers, head
