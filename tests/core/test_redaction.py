"""Keys, passwords and control characters in text from outside."""

from __future__ import annotations

import json
from io import StringIO
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from promptbake import BakeError, excerpt, redact
from promptbake.plugins.attribution import attribute, attributed
from promptbake.progress.terminal import PlainConsole, RichReporter
from promptbake.redaction import declare_secrets

KEY = 'canary/"7f3a91' + "c0" * 20


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    declare_secrets(["ACME_LOGIN"])
    monkeypatch.setenv("ACME_LOGIN", KEY)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"refused {KEY}!", "refused ***!"),
        (json.dumps({"key": KEY}), '{"key": "***"}'),
        (f"GET /?a={quote(KEY, safe='')}&b=1", "GET /?a=***&b=1"),
        ("https://me:pass@host/v1", "https://***@host/v1"),
        ("https://host/v1?api_key=abc&n=1", "https://host/v1?api_key=***&n=1"),
        ("Authorization: Bearer abcdefgh.123", "Authorization: Bearer ***"),
        ("https://host:8000/v1?n=1#token", "https://host:8000/v1?n=1#token"),
        ("a key=value pair", "a key=value pair"),
    ],
)
def test_what_is_redacted(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_short_value_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", "EMPTY")
    monkeypatch.setenv("OTHER_API_KEY", "EMPTY-BUT-LONG")
    assert redact("EMPTY handed, EMPTY-BUT-LONG") == "EMPTY handed, ***"


@given(st.integers(0, 230), st.integers(1, 200))
@budget(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_excerpt_is_redacted_before_it_is_cut(start: int, limit: int) -> None:
    shown = excerpt("x" * start + KEY + "\x1b[2J\n  tail", limit)
    assert len(shown) <= limit
    assert not any(KEY[i : i + 8] in shown for i in range(len(KEY) - 8))
    assert "\x1b" not in shown


@pytest.mark.parametrize("kind", [BakeError, RuntimeError, SystemExit])
def test_no_plugin_s_error_tells_a_key(kind: type[BaseException]) -> None:
    class Service:
        def ask(self) -> None:
            try:
                raise OSError(f"refused {KEY}")
            except OSError as cause:
                raise kind(f"\x1b]0;owned\x07 {KEY}") from cause

    with pytest.raises((BakeError, RuntimeError)) as caught, attribute("plugin acme"):
        attributed(Service(), "plugin acme").ask()
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in str(error)
        assert "\x1b" not in str(error)
        error = error.__cause__


def test_a_terminal_is_sent_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b]52;c;cm0=\x07b\x9b2Jc\u202ed\re[bold]f"
    console, out = PlainConsole(), StringIO()
    console.file = out
    console.print(hostile)
    console.write(hostile)
    reporter = RichReporter()
    reporter.say(f"{hostile} {KEY}")
    with reporter.bar("data", 1) as bar:
        bar.advance(note=hostile)
    printed = out.getvalue() + capsys.readouterr().err
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\r"} & set(printed)
    assert printed.count(r"a\x1b]52;c;cm0=\x07b\x9b2Jc\u202ed\re[bold]f") == 4
    assert KEY not in printed
