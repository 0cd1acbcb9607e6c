"""Stage 1: the prompted model's responses, saved without the prompt."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from promptbake.dataset import conversations
from promptbake.dataset.acceptance import Acceptance
from promptbake.dataset.query_generation import store_queries
from promptbake.documents.typed import Document, read_json_lines, read_own_lines
from promptbake.errors import BakeError
from promptbake.files import JsonLines
from promptbake.interfaces import DataProvider
from promptbake.plugins.attribution import contract_error
from promptbake.progress import Bar, DeferredBar
from promptbake.runs.generation import PreparedData, data_inputs, prepare, query_record
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.types import Conversation, Message, Rejection


def run(session: Session) -> None:
    """Fill data.jsonl and held_out.jsonl with what is missing from them.

    Raises:
        BakeError: The input is wrong. What was generated before is kept, and the next run resumes.
    """
    deferred = DeferredBar()
    prepared = prepare(session, deferred, write=True)
    inputs = data_inputs(session, prepared)
    state, changed = session.run.state("data", inputs)
    if state == "done" and session.run.data.exists() and session.run.held_out.exists():
        session.reporter.say(f"data: {session.run.data} is complete already")
        return
    if state == "fresh" and not changed:
        _refuse_unrecorded_files(session.run)
    started = time.monotonic()
    if state != "fresh":
        prepared = prepared.resumed(_stored(session.run), _seen(session.run))
    # What cannot work is refused here, while nothing is written yet.
    answers = [prepared.provider.generate(job) for job in prepared.jobs]
    if changed:
        archived = session.run.archive()
        session.budget.start_anew()
        session.reporter.say(
            f"data: {', '.join(changed)} changed since {session.run.path} began; "
            f"that run is kept as {archived}, and a new one begins"
        )
    session.run.begin(
        "data", inputs, session.config.model_dump(mode="json"), session.plugin_versions
    )
    if prepared.written:
        store_queries(session.run.queries, query_record(session), prepared.queries)
    # A provider with queries of its own may know better how many there will be.
    total = None if prepared.has_own_queries else len(prepared.requests)
    with session.reporter.bar("data", total, len(prepared.completed_ids)) as bar:
        deferred.bar = bar
        counts = _store(session, prepared, _checked(prepared, answers), bar)
    _check_any(session.run)
    session.run.finish("data", time.monotonic() - started, **counts)


def _store(
    session: Session, prepared: PreparedData, answers: Iterator[Conversation | Rejection], bar: Bar
) -> dict[str, int]:
    run, reporter = session.run, session.reporter
    held_out = {query.id for query in prepared.held_out}
    acceptance = Acceptance(target.teacher for target in session.targets)
    reasons: Counter[str] = Counter()
    answered = 0
    with (
        JsonLines(run.data) as training,
        JsonLines(run.held_out) as test,
        JsonLines(run.rejected) as rejected,
    ):
        truncated = training.truncated + test.truncated + rejected.truncated
        if truncated:
            reporter.say(f"data: removed {truncated} incomplete line(s) that an earlier run left")
        if prepared.completed_ids:
            reporter.say(f"data: resuming after {len(prepared.completed_ids)} earlier responses")
        for item in answers:
            answered += 1
            item = acceptance.check(item)
            if isinstance(item, Rejection):
                reasons[item.reason] += 1
                rejected.append(vars(item))
            else:
                file = test if item.query_id in held_out else training
                file.append(conversations.to_line(item))
            bar.advance()
    for reason, count in reasons.items():
        reporter.say(f"data: left out {count} of {answered} responses: {reason}")
    for name, count in acceptance.dropped_meta.items():
        reporter.say(f"data: left out meta[{name!r}] of {count} responses: it may not be stored")
    return {
        "conversations": len(read_json_lines(run.data)),
        "held_out": len(read_json_lines(run.held_out)),
        "rejected": len(read_json_lines(run.rejected)),
    }


def _checked(
    prepared: PreparedData, answers: list[Iterator[Conversation | Rejection]]
) -> Iterator[Conversation | Rejection]:
    provider: DataProvider = prepared.provider
    for target, each in zip(prepared.targets, answers, strict=True):
        for item in each:
            if not isinstance(item, Conversation | Rejection):
                raise contract_error(provider, f"gave {item!r}: expected a Conversation")
            if isinstance(item, Conversation) and target.name:
                item = replace(item, target=target.name)
            yield item


def _stored(run: Run) -> frozenset[str]:
    files = (run.data, run.held_out, run.rejected)
    return frozenset(line.id for file in files for line in read_own_lines(_Line, file))


def _seen(run: Run) -> frozenset[tuple[str, str]]:
    lines = (line for file in (run.data, run.held_out) for line in read_own_lines(_Line, file))
    return frozenset((each.query_id, each.messages[-1].content) for each in lines if each.messages)


class _Line(Document):
    """What is asked of a stored line where the stage resumes."""

    id: str
    query_id: str
    messages: tuple[Message, ...] = ()  # none in a rejected one


def _refuse_unrecorded_files(run: Run) -> None:
    for file in (run.data, run.held_out):
        if file.exists():
            raise BakeError(
                f"{file}: already exists, and no {run.record_file.name} says where it is from; "
                "move it away, or give --run another folder"
            )


def _check_any(run: Run) -> None:
    for file, what in ((run.data, "to train on"), (run.held_out, "that is held out")):
        if not read_json_lines(file):
            raise BakeError(f"{file}: not one conversation {what} is left")
