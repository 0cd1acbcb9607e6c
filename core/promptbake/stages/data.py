"""Stage 1: the prompted model's responses, saved without the prompt."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from promptbake.dataset import conversations
from promptbake.dataset.queries import BUILTIN, GENERATE, Split, digest, load_queries, plan, split
from promptbake.dataset.query_generation import read_queries, store_queries, write_queries
from promptbake.errors import BakeError, ContractError
from promptbake.files import JsonLines, digest_file, read_json_lines
from promptbake.interfaces import DataProvider, GenerationJob
from promptbake.progress import Bar, DeferredBar
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.types import Conversation, Dataset, Prompt, Query, Rejection


@dataclass(frozen=True)
class Prepared:
    """Who answers which queries."""

    provider: DataProvider
    brought: bool  # whether the provider brings its own queries
    queries: tuple[Query, ...]
    split: Split
    job: GenerationJob
    written: bool = False  # whether the queries were written just now, and are on no disk yet


def prepare(session: Session, relay: DeferredBar | None = None, write: bool = False) -> Prepared:
    """Load the queries, split them, and say what is to be answered.

    Nothing is sent, unless `write` allows queries to be written that are not there yet; without
    it, the built-in ones stand for them.
    """
    config, relay = session.config, relay or DeferredBar()
    provider: DataProvider = session.make("data_providers", config.data.provider, "data.provider")
    brought = tuple(provider.queries())
    job = GenerationJob(
        prompt=session.prompt,
        plan=(),
        done=frozenset(),
        max_tokens=config.data.max_tokens,
        seed=config.seed,
        open_model=session.open_model,
        budget=session.budget,
        progress=relay.advance_estimate,
        note=relay.note,
        turns=config.data.turns,
    )
    queries, written = brought, False
    if not brought and config.data.queries == GENERATE:
        queries = read_queries(session.run.queries, _author(session))
        if not queries and write:
            queries, written = _write_queries(session, provider, job), True
    queries = queries or load_queries(
        BUILTIN if config.data.queries == GENERATE else config.data.queries,
        column=config.data.column,
    )
    parts = split(queries, config.data.held_out, config.seed)
    job = replace(job, plan=plan(parts, config.data.temperatures))
    return Prepared(provider, bool(brought), queries, parts, job, written)


def run(session: Session) -> None:
    """Fill data.jsonl and held_out.jsonl with what is not in them yet.

    Raises BakeError for wrong input; what was generated before it stays, and the next run goes on.
    """
    relay = DeferredBar()
    prepared = prepare(session, relay, write=True)
    inputs = inputs_of(session, prepared.queries)
    state, changed = session.run.state("data", inputs)
    if state == "done" and session.run.data.exists() and session.run.held_out.exists():
        session.reporter.say(f"data: {session.run.data} is complete already")
        return
    if state == "fresh" and not changed:
        _refuse_unrecorded_files(session.run)
    started = time.monotonic()
    job = prepared.job
    if state != "fresh":
        job = replace(job, done=_stored(session.run), seen=_seen(session.run))
    # What cannot work is refused here, while nothing is written yet.
    answers = prepared.provider.generate(job)
    if changed:
        aside = session.run.set_aside()
        session.budget.start_anew()
        session.reporter.say(
            f"data: {', '.join(changed)} changed since {session.run.path} was made; "
            f"that run is kept as {aside}, and a new one begins"
        )
    session.run.begin("data", inputs, session.config.model_dump(mode="json"), session.plugins)
    if prepared.written:
        store_queries(session.run.queries, _author(session), prepared.queries)
    held_out = {query.id for query in prepared.split.held_out}
    # A provider with queries of its own may know better how many there will be.
    total = None if prepared.brought else len(job.plan)
    with session.reporter.bar("data", total, len(job.done)) as bar:
        relay.bar = bar
        counts = _store(session, job, _checked(prepared.provider, answers), held_out, bar)
    _check_any(session.run)
    session.run.finish("data", time.monotonic() - started, **counts)


def load(session: Session) -> Dataset:
    """The conversations of a finished data stage. Raises BakeError where they are not there."""
    run = session.run
    stage = run.stage("data")
    if not stage.get("done"):
        raise BakeError(
            f"{run.path}: holds no complete data; run `promptbake data` (or `make data`) first, "
            "with the same prompt and the same --run"
        )
    if stage["inputs"]["prompt"] != session.prompt.digest:
        raise BakeError(
            f"{run.path}: its data was made with another text of the prompt "
            f"{session.prompt.name}; run `promptbake data` (or `make data`) again"
        )
    return Dataset(conversations.read(run.data), conversations.read(run.held_out))


def rejects(conversation: Conversation, prompt: Prompt) -> str | None:
    """Why a conversation cannot be trained on, or None where it can."""
    if not conversation.response.strip():
        return "the response is empty"
    if any(_quotes(prompt, message.content) for message in conversation.messages):
        return "it quotes the whole prompt"
    return None


def _quotes(prompt: Prompt, text: str) -> bool:
    return _on_one_line(prompt.text) in _on_one_line(text)


def _store(
    session: Session,
    job: GenerationJob,
    answers: Iterator[Conversation | Rejection],
    held_out: set[str],
    bar: Bar,
) -> dict[str, int]:
    run, reporter = session.run, session.reporter
    reasons: Counter[str] = Counter()
    answered = 0
    with (
        JsonLines(run.data) as training,
        JsonLines(run.held_out) as proof,
        JsonLines(run.rejected) as rejected,
    ):
        torn = training.torn + proof.torn + rejected.torn
        if torn:
            reporter.say(f"data: cut off {torn} line(s) that an earlier run left torn")
        if job.done:
            reporter.say(f"data: going on after {len(job.done)} earlier responses")
        for found in answers:
            answered += 1
            if isinstance(found, Conversation):
                reason = rejects(found, session.prompt)
                found = Rejection(found.id, found.query_id, reason) if reason else found
            if isinstance(found, Rejection):
                reasons[found.reason] += 1
                text = "" if _quotes(session.prompt, found.text) else found.text
                rejected.append(vars(replace(found, text=text)))
            else:
                file = proof if found.query_id in held_out else training
                file.append(conversations.to_line(found))
            bar.advance()
    for reason, count in reasons.items():
        reporter.say(f"data: left out {count} of {answered} responses: {reason}")
    return {
        "conversations": len(read_json_lines(run.data)),
        "held_out": len(read_json_lines(run.held_out)),
        "rejected": len(read_json_lines(run.rejected)),
    }


def _checked(
    provider: DataProvider, answers: Iterator[Conversation | Rejection]
) -> Iterator[Conversation | Rejection]:
    for found in answers:
        if not isinstance(found, Conversation | Rejection):
            raise ContractError(provider, f"gave {found!r}: expected a Conversation")
        yield found


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _stored(run: Run) -> frozenset[str]:
    files = (run.data, run.held_out, run.rejected)
    return frozenset(line["id"] for file in files for line in read_json_lines(file))


def _seen(run: Run) -> frozenset[tuple[str, str]]:
    lines = (line for file in (run.data, run.held_out) for line in read_json_lines(file))
    return frozenset((line["query_id"], line["messages"][-1]["content"]) for line in lines)


def _refuse_unrecorded_files(run: Run) -> None:
    for file in (run.data, run.held_out):
        if file.exists():
            raise BakeError(
                f"{file}: is there already, and no {run.record_file.name} tells what made it; move "
                "it away, or give --run another folder"
            )


def _check_any(run: Run) -> None:
    for file, what in ((run.data, "to train on"), (run.held_out, "that is held out")):
        if not read_json_lines(file):
            raise BakeError(f"{file}: not one conversation {what} is left")


def _author(session: Session) -> dict[str, object]:
    """What written queries depend on: the first line of their file."""
    data = session.config.data
    key = "data.provider"
    return {
        "prompt": session.prompt.digest,
        "provider": data.provider,
        "options": session.result_options("data_providers", data.provider, key),
        "model": session.config.model.name,
        "n_queries": data.n_queries,
        "seed": session.config.seed,
    }


def _write_queries(
    session: Session, provider: DataProvider, job: GenerationJob
) -> tuple[Query, ...]:
    n = session.config.data.n_queries
    queries, repeated, quoting = write_queries(provider, job, n)
    left_out = f"; left out {repeated} repeated and {quoting} that quote the prompt"
    session.reporter.say(
        f"data: {len(queries)} queries written for this prompt"
        + (left_out if repeated or quoting else "")
    )
    return queries


def inputs_of(session: Session, queries: tuple[Query, ...]) -> dict[str, object]:
    """What the stage's result depends on, for run.json."""
    config = session.config
    provider = config.data.provider
    options = config.options_of("data_providers", provider)
    checked = session.registry.choose("data_providers", provider, "data.provider").check(options)
    return {
        "prompt": session.prompt.digest,
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json"),
        "queries": digest(queries),
        "options": session.result_options("data_providers", provider, "data.provider"),
        "files": {
            name: digest_file(value)
            for name, value in checked.items()
            if isinstance(value, Path) and value.is_file()
        },
    }
