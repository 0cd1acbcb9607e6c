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
StopReason = Literal["stop", "length"]  # the model ended its turn, or the token limit cut it
Direction = Literal["higher", "lower"]  # which of two values is better
ARMS: tuple[Arm, ...] = ("base", "prompted", "baked", "reprompted")
ARM_LABELS: Mapping[Arm, str] = {arm: arm for arm in ARMS} | {"reprompted": "re-prompted"}

T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """A system prompt, such as the prompt u that is baked; an empty text is no prompt.

    It may hold example turns: see `promptbake.with_system`.
    """

    name: str
    text: str

    @property
    def system(self) -> str | None:
        """The system message that a renderer is given: None where the text is empty."""
        return self.text or None

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class BakeTarget:
    """What is to be learned: with the student's prompt, answer as with the teacher's.

    A run has one unless its settings list more: the prompt for the teacher, none for the student.
    Two equal prompts keep the behaviour as it is, which regularises the others.
    """

    name: str
    teacher: Prompt
    student: Prompt = Prompt("", "")
    weight: float = 1.0  # of its loss, beside the other targets'
    queries: str = ""  # as `data.queries`, which it replaces where it is not empty


@dataclass(frozen=True)
class Query:
    """What a user asks: turns that end with the user's, without the prompt."""

    id: str
    messages: tuple[Message, ...]
    category: str = ""


@dataclass(frozen=True)
class GenerationRequest:
    """One response to generate: a query at a sampling temperature."""

    id: str
    query: Query
    temperature: float


@dataclass(frozen=True)
class Conversation:
    """A query and the prompted model's response, saved without the prompt.

    `complete` tells whether the model ended its turn; a response that was cut by the token limit
    is not complete, and gets no end-of-turn token when it is trained on. `meta` is flat;
    `meta["temperature"]` is the one that the response was sampled at, 1 where it does not say.
    Other names that are stored: category, dollars, finish_reason, model, provider, request_id,
    round, seconds, seed, source, tokens. The rest is left out, as an endpoint may send the prompt
    or a key back.
    `target` names the BakeTarget that it belongs to; empty for the only one of a run.
    """

    id: str
    query_id: str
    messages: tuple[Message, ...]
    complete: bool = True
    meta: Mapping[str, str | int | float | None] = field(default_factory=dict)
    target: str = ""

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
    """A response that is not kept, with the reason and its text."""

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
class StreamChunk:
    """A piece of a response that is being sampled: some tokens, or none.

    The last one, and no other, has the reason why the response ended. No chunk holds the
    end-of-turn token.
    """

    tokens: TokenIds = ()
    stop_reason: StopReason | None = None


@dataclass(frozen=True)
class Span:
    """A token sequence whose last `n_response` tokens are the response to be scored.

    `name` identifies it in messages; `temperature` is the one that the response was sampled
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
    student_ids: TokenIds  # [S], behind the student's prompt, if any
    teacher_ids: TokenIds  # [T], behind the teacher's prompt
    n_response: int  # N
    temperature: float = 1.0  # at which the response was sampled
    target: str = ""  # as the conversation's

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
        """The N response tokens, the same for both."""
        return self.student_ids[-self.n_response :]


@dataclass(frozen=True, eq=False)
class TeacherLogprobs:
    """The teacher's distribution at N response positions: its top K, and M draws for the rest.

    Log-probabilities in nats, at temperature 1, of the whole vocabulary's distribution. With its
    importance weight w, the sum of `w * f(token)` over the draws is an unbiased estimate of the sum
    of f over all tokens outside the top K: w is the reciprocal of M times the probability that the
    token was drawn with, and 0 for a draw inside the top K.
    """

    ids: Tensor  # int64 [N, K], most likely first
    logprobs: Tensor  # float32 [N, K]
    drawn_ids: Tensor  # int64 [N, M]
    drawn_logprobs: Tensor  # float32 [N, M]
    drawn_importance_weights: Tensor  # float32 [N, M]


@dataclass(frozen=True, eq=False)
class LossSupport:
    """The token ids that a loss is evaluated on, C at each of N response positions."""

    ids: Tensor  # int64 [N, C]
    logprobs: Tensor  # float32 [N, C], the teacher's, in nats
    importance_weights: Tensor  # float32 [N, C], how many tokens of the vocabulary each stands for
    weight: float = 1.0  # of the example's loss in a batch: its BakeTarget's


@dataclass(frozen=True)
class Example:
    """A datum with the support that its loss is evaluated on: a batch is made of these."""

    datum: Datum
    support: LossSupport


@dataclass(frozen=True)
class Checkpoint:
    """Weights that a backend can load again: a folder, or an address of the backend's own."""

    backend: str
    base_model: str
    base_digest: str
    uri: str
    details: Mapping[str, str] = field(default_factory=dict)  # for the backend's own use


@dataclass(frozen=True)
class StepMetrics:
    """What a tracker logs after each optimizer step. Step 0 is the state before training."""

    step: int
    steps: int
    epoch: int
    loss: float | None = None  # nats per response token, over the step's batch
    lr: float | None = None
    tokens: int | None = None  # response tokens in the batch
    seconds: float | None = None  # that the loop spent on it
    held_out_kl: float | None = None  # nats per response token, where it was measured


@dataclass(frozen=True)
class KLByConversation:
    """KL(prompted || arm) of each held-out conversation, in nats."""

    nats: tuple[float, ...]  # summed over each conversation's response tokens
    tokens: tuple[int, ...]  # response tokens of each conversation
    by_token: tuple[tuple[float, ...], ...] = ()  # nats at each response token
    # Over the whole vocabulary alone, by conversation; empty where it cannot be had:
    top_1: tuple[int, ...] = ()  # tokens where arm and prompted model have the same likeliest one
    entropy: tuple[float, ...] = ()  # the arm's, summed over the response tokens
    prompted_entropy: tuple[float, ...] = ()  # the prompted model's

    @property
    def per_token(self) -> float:
        """Nats per response token, over all conversations."""
        return sum(self.nats) / sum(self.tokens)


@dataclass(frozen=True)
class SampledAnswer:
    """A sampled answer to a test question.

    `tokens` counts the response's, without the end-of-turn token; `complete` tells whether the
    model ended its turn. None where neither is known.
    """

    text: str
    tokens: int | None = None
    complete: bool | None = None


@dataclass(frozen=True)
class ArmAnswers:
    """One test question, answered by several arms.

    `tokens` and `complete` are as a SampledAnswer's, for the arms of which they are known.
    """

    query: Query
    texts: Mapping[Arm, str]
    tokens: Mapping[Arm, int] = field(default_factory=dict)
    complete: Mapping[Arm, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Query, answers: Mapping[Arm, SampledAnswer]) -> ArmAnswers:
        """The question with an answer of each arm."""
        return cls(
            query,
            {arm: each.text for arm, each in answers.items()},
            {arm: each.tokens for arm, each in answers.items() if each.tokens is not None},
            {arm: each.complete for arm, each in answers.items() if each.complete is not None},
        )


@dataclass(frozen=True)
class Measurement:
    """What an evaluator measured: a score of each item, such as a test question, for each arm.

    Items have ids, the same for every arm, so that arms can be compared item by item. An arm that
    was not measured has no scores; one that did not answer an item has none for it.
    """

    name: str
    unit: str
    scores: Mapping[Arm, Mapping[str, float]]  # by the item's id, in `unit`
    better: Direction | None = None  # None where neither direction is good

    @property
    def means(self) -> dict[Arm, float]:
        """The mean score of each arm that has any, in `unit`."""
        return {arm: sum(s.values()) / len(s) for arm, s in self.scores.items() if s}


@dataclass(frozen=True)
class ImmediateResult(Generic[T]):
    """A pending result that is already there: what a local backend returns."""

    value: T

    def result(self) -> T:
        """The value, at once."""
        return self.value
