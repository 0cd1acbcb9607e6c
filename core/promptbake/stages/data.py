"""Stage 1: the prompted model's responses, saved without the prompt."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from promptbake.dataset import conversations
from promptbake.dataset.acceptance import Acceptance
from promptbake.dataset.query_generation import store_queries
from promptbake.dataset.shortfall import reasons_for, same_at_every_temperature
from promptbake.documents.typed import Document, parse_json, read_json_lines, read_own_lines
from promptbake.errors import BakeError
from promptbake.files import JsonLines, seal, unseal, write_atomic
from promptbake.interfaces import DataProvider
from promptbake.plugins.attribution import contract_error
from promptbake.progress import Bar, DeferredBar
from promptbake.runs.generation import PreparedData, data_inputs, prepare, query_record
from promptbake.runs.run_folder import Run
from promptbake.runs.sampled_targets import SampledTargets
from promptbake.runs.session import Session
from promptbake.types import Conversation, Message, Rejection


def run(session: Session, force: bool = False) -> None:
    """Fill data.jsonl and held_out.jsonl with what is missing from them.

    Args:
        session: The run.
        force: Move a finished bake of another profile or model to a new name.

    Raises:
        BakeError: The input is wrong. What was generated before is kept, and the next run resumes.
    """
    deferred = DeferredBar()
    targets = SampledTargets(session)
    prepared = prepare(session, deferred, write=True).scored(targets.wanted)
    inputs = data_inputs(session, prepared)
    state, changed = session.run.state("data", inputs)
    if state != "fresh":
        _drop_damaged_lines(session)
    if state == "done" and _is_complete(session.run):
        session.reporter.say(f"data: {session.run.data} is complete already")
        return
    if changed and not force:
        session.refuse_replacement()
    started = time.monotonic()
    if state != "fresh":
        prepared = prepared.resumed(_stored(session.run), _seen(session.run))
    # What cannot work is refused here, while nothing is written yet.
    _ = session.renderer
    answers = [prepared.provider.generate(job) for job in prepared.jobs]
    if session.model_is_open:
        inputs = inputs | {"weights": session.base.digest}
    if changed:
        archived = session.run.archive()
        session.budget.start_anew()
        session.reporter.say(
            f"data: {', '.join(changed)} changed since {session.run.path} began; "
            f"that run is kept as {archived}, and a new one begins"
        )
    session.begin("data", inputs)
    if prepared.written:
        store_queries(session.run.queries, query_record(session), prepared.queries)
    # A provider with queries of its own may know better how many there will be.
    total = None if prepared.has_own_queries else len(prepared.requests)
    with session.reporter.bar("data", total, len(prepared.completed_ids)) as bar:
        deferred.bar = bar
        counts = _store(session, prepared, _checked(prepared, answers), targets, bar)
    _say_temperature(session, prepared)
    _check_enough(session, prepared)
    named = {"prompt": session.prompt.name}
    session.run.finish("data", time.monotonic() - started, **named, **counts)


def _store(
    session: Session,
    prepared: PreparedData,
    answers: Iterator[Conversation | Rejection],
    targets: SampledTargets,
    bar: Bar,
) -> dict[str, int]:
    run, reporter = session.run, session.reporter
    held_out = {query.id for query in prepared.held_out}
    prompts = (target.teacher for target in session.targets)
    acceptance = Acceptance(prompts, lambda: session.renderer)
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
                targets.drop(item.id)
                reasons[item.reason] += 1
                rejected.append(seal(vars(item)))
            else:
                file = test if item.query_id in held_out else training
                # Before its line, so that a kill in between leaves none without its scores.
                targets.drop(item.id) if file is test else targets.store(item)
                file.append(seal(conversations.to_line(item)))
            bar.advance()
    if thoughts := acceptance.cleaned:
        reporter.say(f"data: removed the think blocks from {thoughts} of {answered} responses")
    for reason, count in reasons.items():
        reporter.say(f"data: left out {count} of {answered} responses: {reason}")
    for name, count in acceptance.dropped_meta.items():
        reporter.say(f"data: left out meta[{name!r}] of {count} responses: it may not be stored")
    return _counts(run)


def _counts(run: Run) -> dict[str, int]:
    return {
        "conversations": len(read_json_lines(run.data)),
        "held_out": len(read_json_lines(run.held_out)),
        "rejected": len(read_json_lines(run.rejected)),
    }


def _is_complete(run: Run) -> bool:
    """Whether as many lines are there as there were when the stage was done."""
    stage = run.stage("data")
    return all(stage.get(name) == count for name, count in _counts(run).items())


def _drop_damaged_lines(session: Session) -> None:
    """Take the lines that are not as they were written out of their files, to generate them again.

    An incomplete last line is left to JsonLines.
    """
    for file in (session.run.data, session.run.held_out, session.run.rejected):
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        sound = [line for line in whole if _is_sound(line)]
        if len(sound) < len(whole):
            numbers = [str(n) for n, line in enumerate(whole, 1) if not _is_sound(line)]
            write_atomic(file, b"".join(sound + lines[len(whole) :]))
            session.reporter.say(
                f"data: {file}: {len(numbers)} damaged lines (line {', '.join(numbers)}) are "
                "removed, and generated again"
            )


def _is_sound(text: bytes) -> bool:
    try:
        line = parse_json(dict[str, Any], text, "")
    except BakeError:
        return False
    return isinstance(line.get("id"), str) and unseal(line)


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


def _say_temperature(session: Session, prepared: PreparedData) -> None:
    """Say so where most queries have the same response at every temperature."""
    run, temperatures = session.run, {each.id: each.temperature for each in prepared.requests}
    lines = [
        (line["id"], line["query_id"], line["messages"][-1]["content"])
        for line in read_json_lines(run.data)
    ]
    lines += [
        (line["id"], line["query_id"], line["text"]) for line in read_json_lines(run.rejected)
    ]
    same = same_at_every_temperature(
        (query, temperatures[id_], text) for id_, query, text in lines if id_ in temperatures
    )
    if same is not None:
        heats = ", ".join(f"{each:g}" for each in session.config.data.temperatures)
        session.reporter.say(
            f"data: {same[0]} of {same[1]} queries have the same response at every temperature "
            f"({heats}): {session.config.data.provider!r} seems to ignore the temperature, so that "
            "these are no samples of the prompted model"
        )


def _check_enough(session: Session, prepared: PreparedData) -> None:
    """Raise BakeError where too few of the responses that were wanted are kept."""
    run, share = session.run, session.config.data.min_kept
    rejected = read_json_lines(run.rejected)
    held_out = {query.id for query in prepared.held_out}
    wanted = Counter(each.query.id in held_out for each in prepared.requests)
    lost = Counter(line["query_id"] in held_out for line in rejected)
    sides = ((False, run.data, "to train on"), (True, run.held_out, "that are held out"))
    for side, file, what in sides:
        kept = len(read_json_lines(file))
        total = kept + lost[side]
        if not prepared.has_own_queries:
            total = max(total, wanted[side])
        if kept and kept >= share * total:
            continue
        reasons = f" (left out: {reasons_for(rejected)})" if rejected else ""
        lower = math.floor(100 * kept / max(total, 1)) / 100
        raise BakeError(
            f"{file}: {kept} of {total} conversations {what} are left{reasons}; raise "
            f"data.max_tokens = {session.config.data.max_tokens} or mend what the reasons name"
            + (f", or accept them by data.min_kept={lower}" if kept else "")
        )
