"""A chat remembers its turns, and says why a reply ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import Registry
from promptbake.progress import SilentReporter
from promptbake.runs.config import resolve
from promptbake.runs.run_folder import Run
from promptbake.runs.session import Session
from promptbake.stages.chat import Chat
from promptbake.testing.recording import RecordingModel
from promptbake.types import BakeTarget, Prompt
from promptbake_mock.tiny import NAME, tiny_backend

PROMPT = Prompt("pirate", "Speak as a pirate.")


def session_of(model: RecordingModel) -> Session:
    """A session whose base model this is."""
    backend = SimpleNamespace(name="recorded", open_model=lambda name, budget: model)
    factory = PluginFactory("backends", "recorded", "test", "1", lambda: backend)
    resolved = resolve("mock", settings=["train.backend=recorded"])
    targets = (BakeTarget("", PROMPT),)
    return Session(PROMPT, targets, resolved, Run(Path()), Registry((factory,)), SilentReporter())


@pytest.mark.parametrize(("max_tokens", "reason"), [(3, "length"), (9, "stop")])
def test_each_reply_says_why_it_ended(max_tokens: int, reason: str) -> None:
    model = RecordingModel(tiny_backend().open_model(NAME), ends_after=5)
    chat = Chat(session_of(model), "prompted", max_tokens, temperature=1.0)
    assert chat.stop_reason is None
    replies = []
    for question in ("Who?", "Where?"):
        pieces = chat.say(question)
        replies.append("".join(pieces))
        assert chat.stop_reason == reason
    first, second = (model.renderer.text(each.prompt) for each in model.sampled)
    assert [text in first for text in (PROMPT.text, "Who?", "Where?")] == [True, True, False]
    assert all(text in second for text in (PROMPT.text, "Who?", replies[0], "Where?"))
    assert model.sampled[0].seed != model.sampled[1].seed
