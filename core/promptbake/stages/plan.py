"""What a job will take, before anything is sent: calls, tokens by kind, dollars, minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from promptbake.dataset.alignment import align_all, common_prefix
from promptbake.dataset.queries import load_questions
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.interfaces import Model
from promptbake.runs.session import Session
from promptbake.stages import data
from promptbake.types import ARMS, CostEstimate, GenerationRequest, Message, Usage, Work

ANSWERS_ARE_KNOWN = "responses as they are in the run folder"
ANSWERS_AT_THEIR_LONGEST = "responses at their longest"


@dataclass(frozen=True)
class Row:
    """One kind of work of one stage."""

    stage: str
    work: str
    estimate: CostEstimate
    spent: Usage | None  # what it came to so far, where anything was paid for

    @property
    def key(self) -> str:
        """The name under which the ledger has it."""
        return f"{self.stage}: {self.work}"


@dataclass(frozen=True)
class Plan:
    """A whole job."""

    rows: tuple[Row, ...]
    basis: str
    spent: float  # dollars so far, whatever for
    max_dollars: float | None

    @property
    def dollars(self) -> float | None:
        """Of all rows; None where the price of one is not known."""
        if not all(row.estimate.priced for row in self.rows):
            return None
        return sum(row.estimate.usage.dollars for row in self.rows)

    @property
    def seconds(self) -> float | None:
        """Of all rows; None where one is not known."""
        known = [row.estimate.seconds for row in self.rows if row.estimate.seconds is not None]
        return sum(known) if len(known) == len(self.rows) else None

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the prices are from."""
        return tuple(dict.fromkeys(row.estimate.source for row in self.rows if row.estimate.source))

    def as_json(self) -> dict[str, Any]:
        """What `promptbake plan --json` prints."""
        return {
            "basis": self.basis,
            "rows": [
                {
                    "stage": row.stage,
                    "work": row.work,
                    "predicted": vars(row.estimate.usage),
                    "priced": row.estimate.priced,
                    "seconds": row.estimate.seconds,
                    "spent": vars(row.spent) if row.spent else None,
                }
                for row in self.rows
            ],
            "dollars": self.dollars,
            "seconds": self.seconds,
            "spent_dollars": self.spent,
            "max_dollars": self.max_dollars,
            "prices": list(self.sources),
        }


@dataclass(frozen=True)
class _Sequences:
    """The conversations of one side of the split, as the student and the teacher read them."""

    student: tuple[tuple[int, int], ...]  # tokens, and tokens of the response
    teacher: tuple[tuple[int, int], ...]


def make(session: Session) -> Plan:
    """Plan the job that `data`, `bake` and `verify` would do with this config."""
    session.refuse_address("plan")
    prepared = data.prepare(session)
    state, _ = session.run.state("data", data.inputs_of(session, prepared.queries))
    known = state == "done"
    if known:
        dataset = data.load(session)
        parts = [
            _Sequences(
                tuple((len(datum.student_ids), datum.n_response) for datum in datums),
                tuple((len(datum.teacher_ids), datum.n_response) for datum in datums),
            )
            for datums in (
                align_all(found, session.prompt, session.base, check_context=False)
                for found in (dataset.training, dataset.held_out)
            )
        ]
    else:
        held_out = {query.id for query in prepared.split.held_out}
        requests = _expected(prepared)
        parts = [
            _Sequences(
                tuple(_longest(session, messages, None) for messages in side),
                tuple(_longest(session, messages, session.prompt.text) for messages in side),
            )
            for side in (
                [r.query.messages for r in requests if r.query.id not in held_out],
                [r.query.messages for r in requests if r.query.id in held_out],
            )
        ]
    spent = session.budget.by_work()
    rows = [
        Row(stage, work, estimate, spent.get(f"{stage}: {work}"))
        for stage, work, estimate in (
            ("data", "sample", prepared.provider.estimate_cost(prepared.job)),
            *_bake(session, *parts),
            *_verify(session, parts[1]),
        )
    ]
    return Plan(
        tuple(rows),
        ANSWERS_ARE_KNOWN if known else ANSWERS_AT_THEIR_LONGEST,
        session.budget.dollars,
        session.config.budget.max_dollars,
    )


def _expected(prepared: data.Prepared) -> list[GenerationRequest]:
    """The requests; one alone for a query to which the provider brings the answer."""
    job, found = prepared.job, dict[str, GenerationRequest]()
    if not prepared.brought:
        return list(job.plan)
    for request in job.plan:
        asked = prepared.provider.estimate_cost(replace(job, plan=(request,))).usage.calls
        found.setdefault(request.id if asked else request.query.id, request)
    return list(found.values())


def _bake(
    session: Session, training: _Sequences, held_out: _Sequences
) -> Iterator[tuple[str, str, CostEstimate]]:
    base, config = session.base, session.config
    train = config.train
    objective = TailedLoss(session.make("losses", train.loss, "train.loss"), train.tail)
    schedule = Schedule(
        len(training.student), train.batch_size, train.epochs, train.lr, config.seed
    )
    prompted = _prefix(session, session.prompt.text)
    draws = objective.draws(train.tail_draws)
    asked = training.teacher if objective.asks_teacher else ()
    top_k = base.estimate_cost(Work("top_k", asked, prompted, draws=draws))
    reference = _reference(base, held_out, prompted)
    if not base.full_vocabulary:  # asked once, and read again by verify
        top_k = _sum(top_k, reference)
    yield "bake", "top_k", top_k
    columns = config.teacher.top_k if objective.asks_teacher else 1
    columns += objective.draws(train.tail_draws)
    trained = Work(
        "train",
        training.student,
        times=train.epochs,
        steps=schedule.steps,
        datums=1 if train.datums == "one" else columns,
        forward_first=not objective.linear,
    )
    yield "bake", "train", base.estimate_cost(trained)
    measured = {0, schedule.steps, *range(0, schedule.steps, train.eval_every)}
    curve = Work("logprobs", held_out.student, _prefix(session, None), times=len(measured))
    measure = base.estimate_cost(curve)
    yield "bake", "logprobs", _sum(measure, reference) if base.full_vocabulary else measure


def _verify(session: Session, held_out: _Sequences) -> Iterator[tuple[str, str, CostEstimate]]:
    base, config = session.base, session.config.verify
    bare, prompted = _prefix(session, None), _prefix(session, session.prompt.text)
    arms = _sum(
        base.estimate_cost(Work("logprobs", held_out.student, bare, times=2)),
        base.estimate_cost(Work("logprobs", held_out.teacher, prompted)),
    )
    if base.full_vocabulary:
        arms = _sum(arms, _reference(base, held_out, prompted))
    yield "verify", "logprobs", arms
    questions = load_questions(config.questions)
    rows = tuple(
        (len(base.renderer.prompt(question.messages, system)), config.max_tokens)
        for system in (None, session.prompt.text)
        for question in questions
    )
    yield "verify", "sample", base.estimate_cost(Work("sample", rows, bare, times=len(ARMS) // 2))


def _reference(base: Model, held_out: _Sequences, prompted: int) -> CostEstimate:
    """The yardstick's teacher, over the whole vocabulary where it can be had."""
    return base.estimate_cost(
        Work("logprobs" if base.full_vocabulary else "top_k", held_out.teacher, prompted)
    )


def _longest(session: Session, messages: Any, system: str | None) -> tuple[int, int]:
    most = session.config.data.max_tokens
    return len(session.base.renderer.prompt(messages, system)) + most, most


def _prefix(session: Session, system: str | None) -> int:
    """Tokens that every rendering with this system prompt begins with."""
    renderer = session.base.renderer
    rows = [renderer.prompt((Message("user", text),), system) for text in ("a", "Z")]
    return len(common_prefix(rows))


def _sum(one: CostEstimate, other: CostEstimate) -> CostEstimate:
    seconds = None
    if one.seconds is not None and other.seconds is not None:
        seconds = one.seconds + other.seconds
    usage = one.usage + other.usage
    return CostEstimate(usage, one.priced and other.priced, seconds, one.source or other.source)
