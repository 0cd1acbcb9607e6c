"""The nouns: frozen dataclasses that cross every boundary. Standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

TokenIds = tuple[int, ...]
Role = Literal["system", "user", "assistant"]
Arm = Literal["base", "prompted", "baked", "reprompted"]
Tail = Literal["sampled", "bucket", "renormalize", "drop"]
Datums = Literal["one", "per_token"]
ARMS: tuple[Arm, ...] = ("base", "prompted", "baked", "reprompted")

T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """The system prompt u that is to be baked."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Query:
    """What a user asks: turns that end with the user's, and that never hold the prompt."""

    id: str
    messages: tuple[Message, ...]
    category: str = ""


@dataclass(frozen=True)
class GenerationRequest:
    """One response that is wanted: a query at a sampling temperature."""

    id: str
    query: Query
    temperature: float


@dataclass(frozen=True)
class Conversation:
    """A query and the prompted model's response, saved without the prompt.

    `complete` tells whether the model ended its turn; a response that was cut by the token limit
    is not complete, and gets no end-of-turn token when it is trained on. `meta` is flat;
    `meta["temperature"]` is the one that the response was sampled at, 1 where it does not say.
    """

    id: str
    query_id: str
    messages: tuple[Message, ...]
    complete: bool = True
    meta: Mapping[str, str | int | float | None] = field(default_factory=dict)

    @property
    def response(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Dataset:
    """The conversations of a run."""

    training: tuple[Conversation, ...]
    held_out: tuple[Conversation, ...]  # to queries that are never trained on


@dataclass(frozen=True)
class Rejection:
    """A response that came and is not kept, with the reason and what it said."""

    id: str
    query_id: str
    reason: str
    text: str = ""


@dataclass(frozen=True)
class Completion:
    """Sampled response tokens, without the end-of-turn token that ended them if `complete`."""

    tokens: TokenIds
    complete: bool


@dataclass(frozen=True)
class Span:
    """A token sequence whose last `n_response` tokens are the response to be scored.

    `name` says in a message whose it is; `temperature` is the one that the response was sampled
    at.
    """

    tokens: TokenIds
    n_response: int
    name: str = field(default="", compare=False)
    temperature: float = field(default=1.0, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.n_response < len(self.tokens):
            raise ValueError(
                f"a span of {len(self.tokens)} tokens cannot hold a response of {self.n_response}"
            )


@dataclass(frozen=True)
class Datum:
    """One conversation as the student and as the teacher read it, aligned from the end.

    `student_ids[-n_response:] == teacher_ids[-n_response:]`, checked here and assumed nowhere.
    """

    conversation_id: str
    query_id: str
    student_ids: TokenIds  # [S], without the prompt
    teacher_ids: TokenIds  # [T], with the prompt
    n_response: int  # N
    temperature: float = 1.0  # at which the response was sampled

    def __post_init__(self) -> None:
        student, teacher = self.student.tokens, self.teacher.tokens
        if student[-self.n_response :] != teacher[-self.n_response :]:
            raise ValueError(
                f"{self.conversation_id}: the last {self.n_response} tokens of the student and "
                "the teacher differ"
            )

    @property
    def student(self) -> Span:
        """What the student reads: the conversation without the prompt."""
        return Span(self.student_ids, self.n_response, self._name, self.temperature)

    @property
    def teacher(self) -> Span:
        """What the teacher reads: the conversation with the prompt."""
        return Span(self.teacher_ids, self.n_response, self._name, self.temperature)

    @property
    def _name(self) -> str:
        return f"conversation {self.conversation_id}"

    @property
    def response_ids(self) -> TokenIds:
        """The N tokens that both were asked to predict."""
        return self.student_ids[-self.n_response :]


@dataclass(frozen=True, eq=False)
class TeacherLogprobs:
    """The teacher's distribution at N response positions: its top K, and M draws for the rest.

    Log-probabilities in nats, at temperature 1, of the whole vocabulary's distribution. A draw's
    measure is what makes the sum of `measure * f(token)` over the draws an unbiased estimate of
    the sum of f over all tokens outside the top K: the reciprocal of M times the probability that
    it was drawn with, and 0 for one that fell into the top K.
    """

    ids: Tensor  # int64 [N, K], most likely first
    logprobs: Tensor  # float32 [N, K]
    drawn_ids: Tensor  # int64 [N, M]
    drawn_logprobs: Tensor  # float32 [N, M]
    drawn_importance_weights: (
        Tensor  # float32 [N, M], how many vocabulary entries each draw stands for
    )


@dataclass(frozen=True, eq=False)
class LossSupport:
    """The vocabulary entries that a loss looks at, at each of N response positions."""

    ids: Tensor  # int64 [N, C]
    logprobs: Tensor  # float32 [N, C], the teacher's, in nats
    measure: Tensor  # float32 [N, C], how many entries of the vocabulary each column stands for


@dataclass(frozen=True)
class Example:
    """A datum with the columns that its loss is computed on: what a training batch is made of."""

    datum: Datum
    columns: LossSupport


@dataclass(frozen=True)
class Usage:
    """What a service is asked for and bills: calls, tokens by kind, dollars."""

    calls: int = 0
    input_tokens: int = 0  # tokens that are read
    cached_input_tokens: int = 0  # tokens that are read again, from the service's prefix cache
    output_tokens: int = 0  # tokens that are sampled
    train_tokens: int = 0  # tokens, of one forward and one backward pass
    dollars: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        mine, others = vars(self), vars(other)
        return Usage(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class Work:
    """A kind of work, and how much of it: what a model is asked to quote for.

    - `sample`: each row reads so many tokens and may answer with so many.
    - `top_k`, `logprobs`: each row reads so many tokens, of which the last so many are scored.
    - `train`: each row trains on so many tokens, of which the last so many are the response.
    """

    kind: Literal["sample", "top_k", "logprobs", "train"]
    rows: tuple[tuple[int, int], ...]
    shared: int = 0  # tokens that all rows begin with
    times: int = 1  # how often all of it is done
    draws: int = 0  # from the tail, for top_k
    steps: int = 0  # optimiser steps in all, for train
    datums: int = 1  # that each row is sent as, for train
    forward_first: bool = False  # whether the loss takes a forward pass before its gradient


@dataclass(frozen=True)
class CostEstimate:
    """What work is expected to take. None is what nobody knows."""

    usage: Usage
    priced: bool  # whether `usage.dollars` is known
    seconds: float | None
    source: str = ""  # of the prices, with their date


@dataclass(frozen=True)
class Checkpoint:
    """Weights that a backend can load again: a folder, or an address of the backend's own."""

    backend: str
    base_model: str
    base_digest: str
    uri: str
    details: Mapping[str, str] = field(default_factory=dict)  # what the backend wants to remember


@dataclass(frozen=True)
class StepMetrics:
    """What a tracker is told after each optimiser step. Step 0 is the state before training."""

    step: int
    steps: int
    epoch: int
    loss: float | None = None  # nats per response token, over the step's batch
    lr: float | None = None
    tokens: int | None = None  # response tokens in the batch
    seconds: float | None = None  # that the loop spent on it
    held_out_kl: float | None = None  # nats per response token, where it was measured


@dataclass(frozen=True)
class ArmAnswers:
    """One question, answered by several arms."""

    query: Query
    texts: Mapping[Arm, str]


@dataclass(frozen=True)
class Measurement:
    """A number for each arm that was measured, with its unit."""

    name: str
    unit: str
    values: Mapping[Arm, float]


@dataclass(frozen=True)
class VerifyResult:
    """What `verify` found, on queries that were never trained on."""

    kl: Mapping[Arm, float]  # nats per response token, from the prompted model
    kl_kind: str  # over what it is summed: the full vocabulary, or the top K and a bucket
    gap_closed: float  # 1 - kl of baked / kl of base
    gap_closed_ci95: tuple[float, float]
    min_gap_closed: float  # the bar
    measurements: tuple[Measurement, ...]
    answers: tuple[ArmAnswers, ...]  # to the test questions

    @property
    def passed(self) -> bool:
        """Whether the gap that is closed reaches the bar."""
        return self.gap_closed >= self.min_gap_closed


@dataclass(frozen=True)
class ImmediateResult(Generic[T]):
    """A pending result that is there already: what a local backend returns."""

    value: T

    def result(self) -> T:
        """The value, at once."""
        return self.value
