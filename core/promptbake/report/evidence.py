"""evidence.json: what `verify` measured, before anything is computed from it.

verify.json is what `summary.summarise` makes of it, and `recheck` makes it again. The KL at each
token stands in measurements.jsonl alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from promptbake.documents.text import read_bytes
from promptbake.documents.typed import OwnDocument, parse_json
from promptbake.errors import BakeError
from promptbake.evaluate.controls import Control
from promptbake.files import seal, unseal, write_json
from promptbake.report.kl_result import Kind
from promptbake.report.origin import Origin
from promptbake.report.verify_result import AnswerResult, Seconds
from promptbake.runs.run_folder import Run
from promptbake.types import (
    Arm,
    BakeTarget,
    Datum,
    Direction,
    KLByConversation,
    Measurement,
    Prompt,
)

DIGEST = 16  # hex digits of a line's SHA-256


class ConversationKL(OwnDocument):
    """KL(prompted || arm) of one conversation, in nats, summed over its response."""

    conversation: str
    query: str
    tokens: int = Field(description="of the response")
    nats: dict[Arm, float]


class PromptText(OwnDocument):
    """A prompt."""

    name: str
    text: str | None = Field(description="none where report.show_prompt is false")

    @classmethod
    def of(cls, prompt: Prompt, *, shown: bool) -> PromptText:
        """The prompt; without its text where that is not `shown`, unless it is empty."""
        return cls(name=prompt.name, text=prompt.text if shown or not prompt.text else None)

    def hidden(self) -> PromptText:
        """The same without its text, unless it is empty."""
        return self.model_copy(update={"text": None if self.text else self.text})

    def as_prompt(self) -> Prompt:
        """The prompt. Raises BakeError where its text is not kept."""
        if self.text is None:
            raise BakeError(
                f"prompt {self.name}: the run does not hold its text, since report.show_prompt is "
                "false, so the models cannot be measured again from its folder; run `promptbake "
                "verify --force` with the prompt's file"
            )
        return Prompt(self.name, self.text)


class TargetEvidence(OwnDocument):
    """What was to be learned, and its held-out KL."""

    name: str
    teacher: PromptText
    student: PromptText
    weight: float
    queries: str
    held_out: list[ConversationKL]

    @classmethod
    def of(
        cls,
        target: BakeTarget,
        datums: Sequence[Datum],
        arms: Mapping[Arm, KLByConversation],
        *,
        shown: bool,
    ) -> TargetEvidence:
        """The target with what was measured of each arm; its prompts' texts where `shown`."""
        rows = conversation_kls(
            [each.conversation_id for each in datums], [each.query_id for each in datums], arms
        )
        return cls(
            name=target.name,
            teacher=PromptText.of(target.teacher, shown=shown),
            student=PromptText.of(target.student, shown=shown),
            weight=target.weight,
            queries=target.queries,
            held_out=rows,
        )

    def hidden(self) -> TargetEvidence:
        """The same without its prompts' texts."""
        prompts = {"teacher": self.teacher.hidden(), "student": self.student.hidden()}
        return self.model_copy(update=prompts)

    def as_target(self) -> BakeTarget:
        """The target."""
        return BakeTarget(
            self.name,
            self.teacher.as_prompt(),
            self.student.as_prompt(),
            self.weight,
            self.queries,
        )


class ControlEvidence(OwnDocument):
    """A control: the KL that it begins from as `base`, and the KL that is judged as `baked`."""

    name: str
    what: str
    conversations: list[ConversationKL]

    @classmethod
    def of(cls, control: Control) -> ControlEvidence:
        """What was measured of it."""
        arms: dict[Arm, KLByConversation] = {"base": control.before, "baked": control.after}
        rows = conversation_kls(control.conversations, control.queries, arms)
        return cls(name=control.name, what=control.what, conversations=rows)

    def as_control(self) -> Control:
        """The control, to be judged."""
        before, after = (kl_of(self.conversations, arm) for arm in ("base", "baked"))
        ids = tuple(each.conversation for each in self.conversations)
        queries = tuple(each.query for each in self.conversations)
        return Control(self.name, self.what, ids, queries, before, after)


class Scores(OwnDocument):
    """What an evaluator measured."""

    name: str
    unit: str
    better: Direction | None = None
    scores: dict[Arm, dict[str, float]]

    @classmethod
    def of(cls, measurement: Measurement) -> Scores:
        """The scores as numbers."""
        scores = {
            arm: {item: float(value) for item, value in each.items()}
            for arm, each in measurement.scores.items()
        }
        return cls(
            name=measurement.name, unit=measurement.unit, better=measurement.better, scores=scores
        )

    def as_measurement(self) -> Measurement:
        """The measurement."""
        return Measurement(self.name, self.unit, self.scores, self.better)


class Evidence(OwnDocument):
    """What verify.json, report.html and the others are computed from."""

    version: Literal[1] = 1  # of this schema
    prompt: PromptText
    backend: str
    model: str
    adapter: str
    origin: Origin
    tokens_saved: float = Field(description="of a request, on average over the held-out ones")
    questions: dict[str, str] = Field(description="the user's last turn, by held-out query")
    kind: Kind
    main_target: str = Field(description="the one that verify.json's `kl` is of")
    targets: list[TargetEvidence]
    controls: list[ControlEvidence]
    measurements: list[Scores]
    answers: list[AnswerResult]
    seconds: Seconds
    config: dict[str, JsonValue] = Field(description="all settings that `verify` was run with")
    record: dict[str, JsonValue] = Field(description="run.json as it was")
    lines: dict[str, list[str]] = Field(description="a digest of each line, by file")
    check: str = ""  # of all the rest

    @property
    def main(self) -> TargetEvidence:
        """The target that verify.json's `kl` is of."""
        return next(each for each in self.targets if each.name == self.main_target)

    def hidden(self) -> Evidence:
        """The same without the prompts' texts."""
        targets = [each.hidden() for each in self.targets]
        return self.model_copy(update={"prompt": self.prompt.hidden(), "targets": targets})

    def save(self, path: Path) -> None:
        """Write evidence.json, whole or not at all, with its check."""
        write_json(path, seal(self.model_dump(mode="json", by_alias=True, exclude={"check"})))

    @property
    def is_as_written(self) -> bool:
        """Whether the check is that of the rest."""
        return unseal(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def load(cls, path: Path) -> Evidence:
        """Read evidence.json.

        Raises:
            BakeError: It is missing, is not JSON, or has another shape.
        """
        if not path.exists():
            raise BakeError(
                f"{path}: does not exist, so there is nothing to compute verify.json from; run "
                "`promptbake verify` again"
            )
        try:
            return parse_json(cls, read_bytes(path), f"{path}: is no evidence of this version")
        except BakeError as error:
            raise BakeError(f"{error}; run `promptbake verify` again") from None


def conversation_kls(
    ids: Sequence[str], queries: Sequence[str], arms: Mapping[Arm, KLByConversation]
) -> list[ConversationKL]:
    """One row a conversation."""
    tokens = next(iter(arms.values())).tokens
    return [
        ConversationKL(
            conversation=id_,
            query=query,
            tokens=tokens[row],
            nats={arm: each.nats[row] for arm, each in arms.items()},
        )
        for row, (id_, query) in enumerate(zip(ids, queries, strict=True))
    ]


def kl_of(rows: Sequence[ConversationKL], arm: Arm) -> KLByConversation:
    """One arm's KL of these conversations."""
    nats = tuple(row.nats[arm] for row in rows)
    return KLByConversation(nats, tuple(row.tokens for row in rows))


def line_digests(run: Run) -> dict[str, list[str]]:
    """A digest of each line of the run's data and of its metrics, by file."""
    files = (run.data, run.held_out, run.metrics)
    return {file.name: [_digest(line) for line in _lines(file)] for file in files}


def _lines(file: Path) -> list[bytes]:
    return read_bytes(file).split(b"\n") if file.exists() else []


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:DIGEST]
