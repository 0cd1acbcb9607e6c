"""What the data stage is to generate, what its result depends on, and the dataset that it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from promptbake.dataset import conversations
from promptbake.dataset.queries import (
    BUILTIN,
    GENERATE,
    digest,
    load_queries,
    requests_for,
    split,
)
from promptbake.dataset.query_generation import read_queries, write_queries
from promptbake.errors import BakeError
from promptbake.files import digest_file
from promptbake.interfaces import DataProvider, GenerationJob, Model, ResponseScores
from promptbake.progress import DeferredBar
from promptbake.runs.session import Session
from promptbake.types import BakeTarget, Dataset, GenerationRequest, Query


@dataclass(frozen=True)
class PreparedData:
    """The provider, and the queries of each target."""

    provider: DataProvider
    targets: tuple[BakeTarget, ...]
    jobs: tuple[GenerationJob, ...]  # one a target
    queries: tuple[Query, ...]  # of all targets
    training: Mapping[str, tuple[Query, ...]]  # by the target's name
    held_out: tuple[Query, ...]
    has_own_queries: bool  # whether the provider brings its own
    written: bool  # whether the queries were written just now, and are on no disk yet

    @property
    def requests(self) -> tuple[GenerationRequest, ...]:
        """Every response that is wanted."""
        return tuple(request for job in self.jobs for request in job.requests)

    @property
    def completed_ids(self) -> frozenset[str]:
        """The requests whose responses are stored."""
        return self.jobs[0].completed_ids

    def scored(self, scores: ResponseScores | None) -> PreparedData:
        """The same, where the model that samples scores its responses, too."""
        return replace(self, jobs=tuple(replace(job, scores=scores) for job in self.jobs))

    def resumed(
        self, completed_ids: frozenset[str], seen_responses: frozenset[tuple[str, str]]
    ) -> PreparedData:
        """The same, where some responses are stored already."""
        jobs = tuple(
            replace(job, completed_ids=completed_ids, seen_responses=seen_responses)
            for job in self.jobs
        )
        return replace(self, jobs=jobs)


def prepare(
    session: Session, deferred: DeferredBar | None = None, write: bool = False
) -> PreparedData:
    """Load the queries, split them, and say what is to be generated.

    Nothing is sent, unless `write` allows queries to be written that do not exist yet; without
    it, the built-in ones stand for them.
    """
    provider = session.provider
    own = tuple(provider.queries())
    if own and len(session.targets) > 1:
        raise BakeError(
            f"data.provider = {session.config.data.provider!r}: brings its own queries, which fit "
            f"one target, and there are {len(session.targets)}; choose another provider"
        )
    config, written = session.config.data, False
    jobs: list[GenerationJob] = []
    queries: list[Query] = []
    held_out: list[Query] = []
    training: dict[str, tuple[Query, ...]] = {}
    for target in session.targets:
        job = _job(session, target, deferred or DeferredBar())
        source = target.queries or config.queries
        mine = own
        if not own and source == GENERATE:
            mine = read_queries(session.run.queries, query_record(session))
            if not mine and write:
                mine, written = _write_queries(session, provider, job), True
        mine = mine or _load_queries(session, source)
        if target.name:
            mine = tuple(replace(each, id=f"{target.name}/{each.id}") for each in mine)
        parts = split(mine, config.held_out, session.config.seed)
        jobs.append(replace(job, requests=requests_for(parts, config.temperatures)))
        queries += mine
        held_out += parts.held_out
        training[target.name] = parts.training
    return PreparedData(
        provider,
        session.targets,
        tuple(jobs),
        tuple(queries),
        training,
        tuple(held_out),
        bool(own),
        written,
    )


def _load_queries(session: Session, source: str) -> tuple[Query, ...]:
    """A file's queries; or `data.n_queries` built-in ones, which also stand for those to write."""
    config = session.config.data
    if source in (BUILTIN, GENERATE):
        return load_queries(BUILTIN)[: config.n_queries]
    return load_queries(source, column=config.column)


def _job(session: Session, target: BakeTarget, deferred: DeferredBar) -> GenerationJob:
    """A target's job, before its requests are known."""
    return GenerationJob(
        prompt=target.teacher,
        requests=(),
        completed_ids=frozenset(),
        max_tokens=session.config.data.max_tokens,
        seed=session.config.seed,
        open_model=partial(_open_model, session),
        budget=session.budget,
        progress=deferred.advance_estimate,
        note=deferred.note,
        turns=session.config.data.turns,
        model_name=session.config.model.name,
    )


def _open_model(session: Session) -> Model:
    """The base model for the data stage, whose record then says which weights it used."""
    run = session.run
    if run.begun == "data" and "weights" not in run.stage("data")["inputs"]:
        run.add_input("data", "weights", session.base.digest)
    return session.base


def load_dataset(session: Session) -> Dataset:
    """The conversations of a finished data stage. Raises BakeError where there are none."""
    run = session.run
    stage = run.stage("data")
    if not stage.get("done"):
        raise BakeError(
            f"{run.path}: has no finished dataset; run `promptbake data` (or `make data`) first, "
            "with the same prompt and the same --run"
        )
    if stage["inputs"]["prompt"] != session.prompt.digest:
        raise BakeError(
            f"{run.path}: its data was generated with another text of the prompt "
            f"{session.prompt.name}; run `promptbake data` (or `make data`) again"
        )
    if "weights" in stage["inputs"] and stage["inputs"]["weights"] != session.model_digest:
        raise BakeError(
            f"{run.path}: its data was generated when {session.config.model.name} had other "
            "weights, another tokenizer or another chat template; run `promptbake data` (or "
            "`make data`) again"
        )
    dataset = Dataset(conversations.read(run.data), conversations.read(run.held_out))
    for file, kept in ((run.data, dataset.training), (run.held_out, dataset.held_out)):
        if not kept:
            raise BakeError(f"{file}: holds no conversations; run `promptbake data` again")
    _refuse_shared_queries(dataset, run.held_out, run.data)
    return dataset


def _refuse_shared_queries(dataset: Dataset, held_out: Path, training: Path) -> None:
    """Refuse held-out conversations whose turns are trained on: they would measure nothing."""
    trained = {(each.target, each.messages[:-1]) for each in dataset.training}
    shared = [each.id for each in dataset.held_out if (each.target, each.messages[:-1]) in trained]
    if shared:
        raise BakeError(
            f"{held_out}: {len(shared)} of {len(dataset.held_out)} conversations ask what "
            f"{training.name} asks, too, such as {shared[0]}; what is held out is never trained "
            "on: take them out of one of the two files"
        )


def data_inputs(session: Session, prepared: PreparedData) -> dict[str, object]:
    """What the data stage's result depends on, for run.json.

    The model's weights are among it where the provider has opened the model.
    """
    config = session.config
    options = config.options_of(config.provider)
    checked = session.registry.choose(config.provider).check(options)
    inputs: dict[str, object] = {
        "prompt": session.prompt.digest,
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", exclude={"min_kept", "n_queries"}),
        "queries": digest(prepared.queries),
        "options": session.result_options(config.provider),
        "files": {
            name: digest_file(value)
            for name, value in checked.items()
            if isinstance(value, Path) and value.is_file()
        },
    }
    recorded = session.run.stage("data").get("inputs", {})
    if "weights" in recorded or (not recorded and session.model_is_open):
        inputs["weights"] = session.model_digest
    if config.targets:
        inputs["targets"] = [
            [target.name, target.teacher.digest, target.student.digest]
            for target in session.targets
        ]
    return inputs


def query_record(session: Session) -> dict[str, object]:
    """What written queries depend on: the first line of their file."""
    data = session.config.data
    return {
        "prompt": session.prompt.digest,
        "provider": data.provider,
        "options": session.result_options(session.config.provider),
        "model": session.config.model.name,
        "n_queries": data.n_queries,
        "seed": session.config.seed,
    }


def _write_queries(
    session: Session, provider: DataProvider, job: GenerationJob
) -> tuple[Query, ...]:
    n = session.config.data.n_queries
    queries, repeated, quoting = write_queries(provider, job, n, session.run.query_answers)
    session.run.query_answers.unlink(missing_ok=True)
    left_out = f"; left out {repeated} repeated and {quoting} that tell the prompt"
    session.reporter.say(
        f"data: {len(queries)} queries written for this prompt"
        + (left_out if repeated or quoting else "")
    )
    return queries
