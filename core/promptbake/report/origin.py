"""Where a result is from, as verify.json has it: the prompt, the command, what was changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from statistics import fmean

from pydantic import Field, JsonValue

from promptbake.documents.typed import OwnDocument
from promptbake.runs.config import flatten
from promptbake.runs.layers import resolve
from promptbake.runs.session import Session
from promptbake.types import Conversation, Datum


class SystemPrompt(OwnDocument):
    """The prompt that the baked model does without."""

    text: str | None = Field(None, description="none where report.show_prompt is false")
    tokens: float = Field(
        description="that each request is shorter by, on average over the held-out conversations"
    )


class ChangedSetting(OwnDocument):
    """A setting that is not as its profile has it."""

    value: JsonValue
    profile: JsonValue = Field(None, description="the profile's own value")


class Origin(OwnDocument):
    """When and how a result was made."""

    date: str = Field(description="ISO 8601, UTC")
    command: str = Field(description="empty where it was called from Python")
    profile: str = Field(description="empty where the settings are those of a run's folder")
    changed: dict[str, ChangedSetting] = Field(
        description="settings that are not the profile's, by key; a plugin's options left out"
    )
    max_tokens: int = Field(description="of an answer to a test question")
    temperature: float = Field(description="at which test questions were answered; 0 is greedy")
    conversations: int = Field(description="that were trained on")
    cut: int = Field(description="of these, at data.max_tokens")

    @classmethod
    def of(cls, session: Session, training: Sequence[Conversation]) -> Origin:
        """Of a session that verifies its run, which was trained on these conversations."""
        verify = session.config.verify
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command=session.command,
            profile=session.resolved.profile,
            changed=dict(_changed(session)),
            max_tokens=verify.max_tokens,
            temperature=verify.temperature,
            conversations=len(training),
            cut=sum(not each.complete for each in training),
        )


def tokens_saved(datums: Sequence[Datum]) -> float:
    """By how much the student's requests are shorter than the teacher's, on average."""
    return fmean(len(datum.teacher_ids) - len(datum.student_ids) for datum in datums)


def _changed(session: Session) -> Iterator[tuple[str, ChangedSetting]]:
    """What the bake used, as run.json has it, and what `verify` used, beside the bare profile."""
    if not session.resolved.profile:  # the settings are those on record
        return
    bare = resolve(session.resolved.profile, registry=session.registry).config
    usual = dict(flatten(bare.model_dump(mode="json")))
    now = dict(flatten(session.config.model_dump(mode="json")))
    baked = dict(flatten(session.run.record.get("config", {})))
    of_verify = {key: value for key, value in now.items() if key.startswith(("verify.", "report."))}
    for key, value in sorted((now | baked | of_verify).items()):
        if not key.startswith("options.") and value != usual.get(key):
            yield key, ChangedSetting(value=value, profile=usual.get(key))
