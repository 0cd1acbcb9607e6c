"""What a job will cost, before anything is sent: calls, tokens by kind, dollars, minutes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from promptbake.costs import (
    NO_COST,
    CostEstimate,
    LogprobsWork,
    SampleWork,
    TopKWork,
    TrainWork,
    Usage,
)
from promptbake.dataset.alignment import align_all, common_prefix
from promptbake.dataset.queries import load_questions
from promptbake.distill.objective import TailedLoss
from promptbake.distill.schedule import Schedule
from promptbake.evaluate.arms import four_arms, main_target
from promptbake.evaluate.controls import FEW, wrong_prompt
from promptbake.interfaces import EvalContext, Model
from promptbake.runs.generation import PreparedData, data_inputs, load_dataset, prepare
from promptbake.runs.scoring import choose_tail
from promptbake.runs.session import Session
from promptbake.types import ARMS, Conversation, GenerationRequest, Message

RESPONSES_ARE_KNOWN = "responses as they are in the run folder"
WORST_CASE = "worst case (max_tokens)"


@dataclass(frozen=True)
class Row:
    """One kind of work of one stage."""

    stage: str
    work: str
    estimate: CostEstimate
    spent: Usage | None  # the usage so far, where anything was paid for

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        return f"{self.stage}: {self.work}"


@dataclass(frozen=True)
class Plan:
    """A whole job."""

    rows: tuple[Row, ...]
    basis: str
    spent: float  # dollars so far, whatever for
    unpriced_calls: int  # so far, calls whose price is not known
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
    def memory_bytes(self) -> float | None:
        """The most that one kind of work needs on this machine; None where nothing is known."""
        return max((row.estimate.memory_bytes or 0.0 for row in self.rows), default=0.0) or None

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
            "memory_bytes": self.memory_bytes,
            "spent_dollars": self.spent,
            "unpriced_calls": self.unpriced_calls,
            "max_dollars": self.max_dollars,
            "prices": list(self.sources),
        }


Lengths = tuple[int, int]  # tokens of a sequence, and tokens of its response


@dataclass(frozen=True)
class _Sequences:
    """The conversations of one side of the split, as the student and the teacher read them."""

    student: tuple[Lengths, ...]
    teacher: tuple[Lengths, ...]

    def __add__(self, other: _Sequences) -> _Sequences:
        return _Sequences(self.student + other.student, self.teacher + other.teacher)


NO_SEQUENCES = _Sequences((), ())


def make(session: Session) -> Plan:
    """Plan the job that `data`, `bake` and `verify` would do with this config."""
    session.require_prompt("plan")
    prepared = prepare(session)
    state, _ = session.run.state("data", data_inputs(session, prepared))
    known = state == "done"
    parts = _known(session) if known else _worst_case(session, prepared)
    spent = session.budget.by_work()
    data = prepared.provider.estimate_cost(prepared.jobs[0])
    for job in prepared.jobs[1:]:
        data += prepared.provider.estimate_cost(job)
    rows = [
        Row(stage, work, estimate, spent.get(f"{stage}: {work}"))
        for stage, work, estimate in (
            ("data", "sample", data),
            *_bake(session, *parts),
            *_verify(session, parts[1]),
        )
    ]
    return Plan(
        tuple(rows),
        RESPONSES_ARE_KNOWN if known else WORST_CASE,
        session.budget.dollars,
        sum(usage.unpriced_calls for usage in spent.values()),
        session.config.budget.max_dollars,
    )


def _known(session: Session) -> tuple[_Sequences, _Sequences]:
    """Training and held-out sequences, of the responses in the run folder."""
    dataset = load_dataset(session)

    def sequences(conversations: tuple[Conversation, ...]) -> _Sequences:
        datums = align_all(conversations, session.targets, session.base, check_context=False)
        return _Sequences(
            tuple((len(datum.student_ids), datum.n_response) for datum in datums),
            tuple((len(datum.teacher_ids), datum.n_response) for datum in datums),
        )

    return sequences(dataset.training), sequences(dataset.held_out)


def _worst_case(session: Session, prepared: PreparedData) -> tuple[_Sequences, _Sequences]:
    """Training and held-out sequences, with every response at `data.max_tokens`."""
    held_out_ids = {query.id for query in prepared.held_out}
    training = held_out = NO_SEQUENCES
    for target, job in zip(prepared.targets, prepared.jobs, strict=True):
        for request in _expected(prepared, job.requests):
            messages = request.query.messages
            row = _Sequences(
                (_longest(session, messages, target.student.system),),
                (_longest(session, messages, target.teacher.system),),
            )
            if request.query.id in held_out_ids:
                held_out += row
            else:
                training += row
    return training, held_out


def _expected(
    prepared: PreparedData, requests: tuple[GenerationRequest, ...]
) -> list[GenerationRequest]:
    """The requests; one alone for a query to which the provider brings the answer."""
    if not prepared.has_own_queries:
        return list(requests)
    job, expected = prepared.jobs[0], dict[str, GenerationRequest]()
    for request in requests:
        calls = prepared.provider.estimate_cost(replace(job, requests=(request,))).usage.calls
        expected.setdefault(request.id if calls else request.query.id, request)
    return list(expected.values())


def _bake(
    session: Session, training: _Sequences, held_out: _Sequences
) -> Iterator[tuple[str, str, CostEstimate]]:
    base, config = session.base, session.config
    train = config.train
    objective = TailedLoss(session.loss, choose_tail(session).tail)
    schedule = Schedule(
        len(training.student), train.batch_size, train.epochs, train.lr, config.seed
    )
    prompted = _prefix(session, "teacher")
    draws = objective.draws(train.tail_draws)
    scored = training.teacher if objective.requires_teacher else ()
    top_k = base.estimate_cost(TopKWork(scored, prompted, draws=draws))
    reference = _reference(base, held_out, prompted)
    if not base.full_vocabulary:  # scored once, and read again by verify
        top_k += reference
    yield "bake", "top_k", top_k
    support = config.teacher.top_k if objective.requires_teacher else 1
    support += objective.draws(train.tail_draws)
    trained = TrainWork(
        training.student,
        times=train.epochs,
        steps=schedule.steps,
        support=support,
        saves=schedule.steps // train.save_every,
        forward_first=not objective.is_linear,
    )
    yield "bake", "train", base.estimate_cost(trained)
    measured = {0, schedule.steps, *range(0, schedule.steps, train.eval_every)}
    curve = LogprobsWork(held_out.student, _prefix(session, "student"), times=len(measured))
    points = base.estimate_cost(curve)
    yield "bake", "logprobs", points + reference if base.full_vocabulary else points


def _verify(session: Session, held_out: _Sequences) -> Iterator[tuple[str, str, CostEstimate]]:
    base, config = session.base, session.config.verify
    bare, prompted = _prefix(session, "student"), _prefix(session, "teacher")
    # Without the prompt, the base and the baked model are the curve's first and last point.
    arms = base.estimate_cost(LogprobsWork(held_out.teacher, prompted))
    if base.full_vocabulary:
        arms += _reference(base, held_out, prompted)
    reference, students = _control(session, held_out)
    arms += students
    if base.full_vocabulary:
        arms += reference
    else:
        yield "verify", "top_k", reference
    yield "verify", "logprobs", arms
    questions = load_questions(config.questions, session.config.data.column)
    rows = tuple(
        (len(base.renderer.prompt(question.messages, system)), config.max_tokens)
        for system in (None, session.prompt.text)
        for question in questions
    )
    yield "verify", "sample", base.estimate_cost(SampleWork(rows, bare, times=len(ARMS) // 2))
    arms_of = four_arms(session.targets[0], session.open_base, session.open_base)
    context = EvalContext(session.prompt, (), arms_of, questions=len(questions))
    for name, evaluator in session.evaluators().items():
        estimate = evaluator.estimate_cost(context)
        if estimate != NO_COST:
            yield "verify", name, estimate


def _control(session: Session, held_out: _Sequences) -> tuple[CostEstimate, CostEstimate]:
    """The control `wrong prompt`: the base model with that prompt, and base and baked without."""
    base, target = session.base, main_target(session.targets)
    wrong = wrong_prompt(target.teacher)
    rows = held_out.student[:FEW]
    bare, longer = (
        len(base.renderer.prompt((Message("user", "a"),), prompt.system))
        for prompt in (target.student, wrong)
    )
    taught = tuple((tokens - bare + longer, response) for tokens, response in rows)
    reference = _reference(base, _Sequences(rows, taught), _shared_tokens(session, [wrong.system]))
    return reference, base.estimate_cost(LogprobsWork(rows, _prefix(session, "student"), times=2))


def _reference(base: Model, held_out: _Sequences, prompted: int) -> CostEstimate:
    """The held-out KL's teacher, over the whole vocabulary where it can be had."""
    if base.full_vocabulary:
        return base.estimate_cost(LogprobsWork(held_out.teacher, prompted))
    return base.estimate_cost(TopKWork(held_out.teacher, prompted))


def _longest(session: Session, messages: tuple[Message, ...], system: str | None) -> Lengths:
    most = session.config.data.max_tokens
    return len(session.base.renderer.prompt(messages, system)) + most, most


def _prefix(session: Session, side: Literal["student", "teacher"]) -> int:
    """Tokens that every rendering for the student, or for the teacher, begins with."""
    return _shared_tokens(session, [getattr(target, side).system for target in session.targets])


def _shared_tokens(session: Session, systems: Sequence[str | None]) -> int:
    """Tokens that every rendering with these system prompts begins with."""
    renderer = session.base.renderer
    rows = [
        renderer.prompt((Message("user", text),), system)
        for text in ("a", "Z")
        for system in systems
    ]
    return len(common_prefix(rows))
