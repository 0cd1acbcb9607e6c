"""Commands of plugins, and a chat that says why it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_bakes import PIRATE, job

import promptbake
from promptbake.cli.main import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_a_plugin_adds_commands(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pirate.md").write_text(PIRATE.text)
    assert run("word-count", "pirate.md", "--profile", "mock", "--least", "4") == 0
    assert capsys.readouterr().out == "pirate: 7 words\n"
    assert run("hello", "--name", "parrot") == 0
    assert capsys.readouterr().out == "hello, parrot\n"
    assert run("--help") == 0
    assert "Count the words of the prompt." in capsys.readouterr().out
    assert run("plugins", "--kind", "commands") == 0
    assert "word-count" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["mock", "tinker-local"])
def test_a_chat_says_why_it_stopped(profile: str) -> None:
    given = job(profile)
    reasons = set()
    for limit in (1, 200):
        chat = promptbake.chat(PIRATE, arm="base", max_tokens=limit, temperature=1.0, **given)
        assert chat.stop_reason is None
        assert "".join(chat.say("Say hm."))
        reasons.add(chat.stop_reason)
    assert reasons == {"length", "stop"}
