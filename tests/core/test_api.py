"""promptbake from Python: the examples in the docstrings and in the README, run."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest

import promptbake
from promptbake import BakeError, Prompt, api

ROOT = Path(__file__).parents[2]
PIRATE = Prompt("pirate", "Answer like a pirate who has lost his map.")


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def failures(tests: list[doctest.DocTest]) -> str:
    """What the examples printed that they were not to print; they share their names, in order."""
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    names: dict[str, object] = {"promptbake": promptbake}
    printed: list[str] = []
    for test in sorted(tests, key=lambda test: test.lineno or 0):
        test.globs = names
        runner.run(test, clear_globs=False, out=printed.append)
    assert runner.tries > 0
    return "".join(printed)


def test_the_examples_of_the_docstrings_and_of_the_readme_hold() -> None:
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(api) if test.examples]
    assert {test.name.rpartition(".")[2] for test in tests} == {
        "api", "bake", "plan", "chat", "export", "list_runs", "compare", "recheck"
    }  # fmt: skip
    assert failures(tests) == ""
    section = (ROOT / "README.md").read_text("utf-8").partition("## From Python")[2]
    text = section.partition("\n## ")[0]
    test = doctest.DocTestParser().get_doctest(text, {}, "README", "README.md", 0)
    assert len(test.examples) > 3
    assert failures([test]) == ""  # on the run that the docstrings' examples made


def test_progress_is_shown_on_standard_error_unless_it_is_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    brief = {"profile": "mock", "settings": {"data.max_tokens": 2}}
    promptbake.data(PIRATE, **brief)  # type: ignore[arg-type]
    printed = capsys.readouterr()
    assert (printed.out, "data" in printed.err) == ("", True)
    promptbake.data(PIRATE, quiet=True, **brief)  # type: ignore[arg-type]
    assert capsys.readouterr() == ("", "")


def test_it_is_the_run_of_the_command(tmp_path: Path) -> None:
    from promptbake.cli.main import main

    (tmp_path / "pirate.md").write_text(PIRATE.text)
    (tmp_path / "more.toml").write_text("[data]\nmax_tokens = 8\n")
    own = {"profile": "mock", "config": "more.toml", "run": "own", "quiet": True}
    dataset = promptbake.data("pirate.md", settings={"data.temperatures": [0.5, 1.0]}, **own)
    theirs = "--profile mock --config more.toml --run theirs --set data.temperatures=[0.5,1.0]"
    with pytest.raises(SystemExit, match="0"):
        main(["data", "pirate.md", *theirs.split()])
    for name in ("data.jsonl", "held_out.jsonl"):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert len(dataset.training) > 60  # of 80


@pytest.mark.parametrize(
    ("prompt", "job", "line"),
    [
        (PIRATE, {"settings": {"train.rnak": 3}}, "settings train.rnak: train.rnak: unknown "),
        (PIRATE, {"settings": {"train.rank": "x"}}, "settings train.rank: train.rank: "),
        (PIRATE, {"profile": "mokc"}, "--profile mokc: unknown profile; available: "),
        (Prompt("p", "  "), {}, "prompt 'p': the prompt is empty"),
        (Prompt("a/b", "x"), {}, "prompt 'a/b': its name must be one that a folder can have"),
        (Prompt("..", "x"), {}, "prompt '..': its name must be one that a folder can have"),
        (Prompt("a\0", "x"), {}, "prompt 'a\\x00': its name must be one that a folder can have"),
        (PIRATE, {"settings": {5: 1}}, "settings: 5 is no key, such as 'train.lr'"),
        ("none.md", {}, "none.md: "),
    ],
)  # fmt: skip
def test_an_error_that_a_user_can_fix_is_one_line(
    prompt: Prompt | str, job: dict[str, object], line: str
) -> None:
    with pytest.raises(BakeError) as caught:
        promptbake.data(prompt, **({"profile": "mock"} | job))  # type: ignore[arg-type]
    assert str(caught.value).startswith(line)
    assert not Path("runs").exists()


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(
        TypeError, match="unknown argument 'setings'; choose from: profile, config, settings"
    ):
        promptbake.plan(PIRATE, profile="mock", setings={})  # type: ignore[call-arg]


def test_wrong_settings_of_a_chat_are_refused() -> None:
    for wrong in ({"arm": "bkaed"}, {"max_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(BakeError, match="expected"):
            promptbake.chat(PIRATE, profile="mock", **wrong)  # type: ignore[arg-type]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No promptbake attribute bakery"):
        promptbake.bakery  # noqa: B018
    assert "torch" in sys.modules  # of this process; test_hookspecs looks at one of its own
