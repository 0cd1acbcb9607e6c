"""What a person sees while a stage works."""

from __future__ import annotations

import pytest

from promptbake.progress import DeferredBar, Reporter, SilentReporter
from promptbake.progress.terminal import RichReporter


class RecordingBar:
    """A bar that records what it is advanced by."""

    def __init__(self) -> None:
        self.amounts: list[float] = []

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Nothing."""

    def advance_estimate(self, amount: float) -> None:
        self.amounts.append(amount)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on standard error; nothing may stand on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_line_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = "data: [bold]runs/a:smile:b[/] " + "word " * 60
    RichReporter().say(line)
    assert shown(capsys) == line + "\n"


def test_a_bar_without_a_terminal_shows_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with RichReporter().bar("bake", 5, done=2) as bar:
        bar.advance(note="0.5 nats")
        bar.advance(2, note="0.4 nats")
    end = shown(capsys)
    assert end.startswith("✓ bake ")
    assert "5/5" in end
    assert "0.4 nats" in end
    assert "0.5 nats" not in end


@pytest.mark.parametrize(
    ("steps", "count"),
    [
        ([("advance_estimate", 1.5)], "3/9"),
        ([("advance_estimate", 1.5), ("advance", 1), ("advance", 1)], "4/9"),
        ([("advance_estimate", 3.0), ("advance", 1)], "5/9"),
        ([("advance_estimate", 70.0)], "9/9"),
        ([], "2/9"),
    ],
)
def test_a_bar_shows_what_is_done_or_estimated_whichever_is_more(
    capsys: pytest.CaptureFixture[str], steps: list[tuple[str, float]], count: str
) -> None:
    with RichReporter().bar("data", 9, done=2) as bar:
        for verb, amount in steps:
            getattr(bar, verb)(amount)
    assert count in shown(capsys)


def test_an_error_goes_through_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), RichReporter().bar("bake", 2):
        raise ZeroDivisionError
    assert "0/2" in shown(capsys)


def test_a_silent_reporter_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter: Reporter = SilentReporter()
    reporter.say("bake: begins")
    with reporter.bar("bake", 2, done=1) as bar:
        bar.advance(note="a")
        bar.advance_estimate(0.5)
    assert shown(capsys) == ""


def test_a_deferred_bar_passes_progress_on_once_it_has_a_bar() -> None:
    deferred, bar = DeferredBar(), RecordingBar()
    deferred.advance_estimate(1)
    deferred.bar = bar
    deferred.advance_estimate(0.5)
    assert bar.amounts == [0.5]
