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
from promptbake.report.kl_result import HeldOut, KLResult, TargetKL
from promptbake.report.measured import (
    ControlResult,
    MeasurementResult,
)
from promptbake.report.origin import Origin, SystemPrompt
from promptbake.report.query_kl import QueryKL
from promptbake.report.verdict import Verdict
from promptbake.types import Arm, ArmAnswers


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
    tokens: dict[Arm, int] = Field(
        default_factory=dict, description="by arm: without the end-of-turn token"
    )
    complete: dict[Arm, bool] = Field(
        default_factory=dict, description="by arm: the model ended its turn, and was not cut"
    )

    @classmethod
    def of(cls, answers: ArmAnswers) -> AnswerResult:
        """The question with the answers of the arms that gave one."""
        return cls(
            id=answers.query.id,
            question=answers.query.messages[-1].content,
            tokens=dict(answers.tokens),
            complete=dict(answers.complete),
            **dict(answers.texts.items()),
        )


class Seconds(OwnDocument):
    """How long each stage took, in seconds; None where nothing is on record."""

    data: float | None
    bake: float | None
    verify: float


class VerifyResult(OwnDocument):
    """What `verify` measured, on queries that were never trained on."""

    version: Literal[3] = 3  # of this schema
    prompt: str
    backend: str
    model: str
    adapter: str
    system_prompt: SystemPrompt | None = None
    origin: Origin | None = None
    held_out: HeldOut
    kl: KLResult
    queries: list[QueryKL] = Field(default_factory=list, description="what `kl` is the sum of")
    targets: dict[str, TargetKL] = Field(
        default_factory=dict,
        description="where a run has several; `kl` is of the first that changes the model",
    )
    evaluators: dict[str, MeasurementResult]
    controls: dict[str, ControlResult] = Field(
        default_factory=dict, description="what must be judged not equivalent"
    )
    thresholds: dict[str, Threshold]
    verdict: Verdict
    passed: bool = Field(description="every threshold is reached, and the verdict is not `failed`")
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
