"""A chat remembers its turns, and says why a reply ended."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest

from promptbake.cli.conversation import talk
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import Registry
from promptbake.progress import SilentReporter
from promptbake.runs.layers import resolve
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


def test_a_conversation_has_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = RecordingModel(tiny_backend().open_model(NAME), ends_after=5)
    chat = Chat(session_of(model), "base", 9, temperature=1.0)
    lines = "Who?\n/system Be brief.\nWhere?\n/arm prompted\nWhen?\n/arm x\n/what\n/help\n/exit\nNo"
    monkeypatch.setattr("sys.stdin", StringIO(lines))
    talk(chat, None)
    seen = [model.renderer.text(each.prompt) for each in model.sampled]
    holds = [[text in each for text in ("Who?", "Be brief.", PROMPT.text)] for each in seen]
    assert holds == [[True, False, False], [True, True, False], [False, False, True]]
    printed = capsys.readouterr().out
    assert "arm 'x': expected one of base, prompted, baked, reprompted" in printed
    assert "/what: unknown command" in printed
    assert printed.count("/system TEXT") == 2


def test_a_reply_that_is_stopped_is_kept_as_it_is() -> None:
    model = RecordingModel(tiny_backend().open_model(NAME), ends_after=5)
    chat = Chat(session_of(model), "base", 9, temperature=1.0)
    reply = chat.say("Who?")
    start = next(reply)
    reply.close()  # what Ctrl-C does
    "".join(chat.say("Where?"))
    assert all(text in model.renderer.text(model.sampled[1].prompt) for text in ("Who?", start))
