"""verify.json: the one schema that it is written and read through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from promptbake.documents.text import read_bytes
from promptbake.documents.typed import OwnDocument, parse_json
from promptbake.errors import BakeError
from promptbake.files import write_json
from promptbake.types import ARMS, Arm, ArmAnswers, Direction


class HeldOut(OwnDocument):
    """What the KL was measured on."""

    queries: int
    tokens: int = Field(description="response tokens")


class KLResult(OwnDocument):
    """KL(prompted || arm) on held-out responses, in `unit`."""

    unit: Literal["nats/token"] = "nats/token"
    kind: Literal["full", "top_k_bucket"] = Field(
        description="summed over the full vocabulary, or over the top K and a bucket"
    )
    base: float
    baked: float
    reprompted: float
    gap_closed: float = Field(description="1 - baked / base")
    gap_closed_ci95: tuple[float, float] = Field(description="bootstrap over the queries")


class TargetKL(OwnDocument):
    """KL(prompted || arm) on one target's held-out responses, in nats/token."""

    base: float
    baked: float
    reprompted: float
    gap_closed: float | None = Field(
        None, description="none where base is 0: nothing was to change"
    )


class DifferenceResult(OwnDocument):
    """The mean difference of two arms over the items that both have."""

    mean: float
    ci95: tuple[float, float] | None = None
    items: int


class MeasurementResult(OwnDocument):
    """What one evaluator measured: the mean of each arm, and its scores item by item."""

    unit: str
    better: Direction | None = None
    base: float | None = None
    prompted: float | None = None
    baked: float | None = None
    reprompted: float | None = None
    baked_minus_prompted: DifferenceResult | None = None
    baked_minus_base: DifferenceResult | None = None
    scores: dict[Arm, dict[str, float]] = Field(description="by arm and item")

    @property
    def means(self) -> dict[Arm, float]:
        """The mean of each arm that was measured."""
        values = {arm: getattr(self, arm) for arm in ARMS}
        return {arm: value for arm, value in values.items() if value is not None}


class Threshold(OwnDocument):
    """What a value must reach."""

    min: float
    value: float
    passed: bool


class AnswerResult(OwnDocument):
    """One test question, answered by the arms."""

    id: str
    question: str
    base: str | None = None
    prompted: str | None = None
    baked: str | None = None
    reprompted: str | None = None

    @classmethod
    def of(cls, answers: ArmAnswers) -> AnswerResult:
        """The question with the answers of the arms that gave one."""
        question = answers.query.messages[-1].content
        return cls(id=answers.query.id, question=question, **dict(answers.texts.items()))


class Seconds(OwnDocument):
    """How long each stage took, in seconds; None where nothing is on record."""

    data: float | None
    bake: float | None
    verify: float


class VerifyResult(OwnDocument):
    """What `verify` measured, on queries that were never trained on."""

    version: Literal[2] = 2  # of this schema
    prompt: str
    backend: str
    model: str
    adapter: str
    held_out: HeldOut
    kl: KLResult
    targets: dict[str, TargetKL] = Field(
        default_factory=dict,
        description="where a run has several; `kl` is of the first that changes the model",
    )
    evaluators: dict[str, MeasurementResult]
    thresholds: dict[str, Threshold]
    passed: bool
    answers: list[AnswerResult]
    seconds: Seconds

    @property
    def gap_closed(self) -> float:
        """The share of the gap that is closed: 0 is no bake, 1 is the prompt itself."""
        return self.kl.gap_closed

    def as_json(self) -> dict[str, Any]:
        """What verify.json holds."""
        record = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        record["seconds"] = self.seconds.model_dump()
        return record

    def save(self, path: Path) -> None:
        """Write verify.json, whole or not at all."""
        write_json(path, self.as_json())

    @classmethod
    def load(cls, path: Path) -> VerifyResult:
        """Read verify.json.

        Raises:
            BakeError: It is missing, is not JSON, or has another shape.
        """
        if not path.exists():
            raise BakeError(
                f"{path}: does not exist; run `promptbake verify` (or `make verify`) first"
            )
        try:
            return parse_json(cls, read_bytes(path), f"{path}: is no verify.json of this version")
        except BakeError as error:
            raise BakeError(f"{error}; run `promptbake verify` again") from None


def json_schema() -> Mapping[str, Any]:
    """The JSON Schema of verify.json, as verify.schema.json beside this module has it."""
    return VerifyResult.model_json_schema(by_alias=True)
