"""`promptbake new-plugin`: the names that it takes, and what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from command import promptbake

from promptbake.cli.scaffold import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_a_repository(kind: str) -> None:
    result = promptbake("new-plugin", "My-First", "--kind", kind)
    assert result.code == 0
    assert result.out.startswith("promptbake-my-first: a plugin that works.")
    folder = Path("promptbake-my-first")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        ".gitignore",
        "README.md",
        "promptbake_my_first.py",
        "pyproject.toml",
        "tests/test_my_first.py",
    }
    project = tomli.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["promptbake"] == {"my_first": "promptbake_my_first"}
    assert "{{" not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_it_writes_into_the_given_folder(tmp_path: Path) -> None:
    assert promptbake("new-plugin", "a1", "--kind", "loss", "--to", tmp_path / "sub").code == 0
    assert (tmp_path / "sub" / "promptbake-a1" / "pyproject.toml").exists()


@pytest.mark.parametrize("kind", ["evaluators", "data_provider", "Data-Providers"])
def test_a_kind_may_be_spelt_as_in_the_settings(kind: str) -> None:
    assert promptbake("new-plugin", "a2", "--kind", kind).code == 0
    assert "name" in promptbake("plugins", "--kind", kind).out


@pytest.mark.parametrize(
    ("name", "kind", "line"),
    [
        ("x", "los", "--kind los: unknown kind; choose from: data-provider, teacher, loss, "
         "backend, evaluator, tracker, command (did you mean loss?)"),
        ("1st", "loss", "1st: expected a name of letters and digits, such as skew-kl"),
        ("a/b", "loss", "a/b: expected a name"),
        ("../a", "loss", "../a: expected a name"),
        ("forward-kl", "loss", "forward-kl: the plugin losses already offers this loss"),
        ("torch", "loss", "torch: a plugin of this name is already installed; choose another name"),
        ("promptbake-files", "loss", "promptbake-files: a plugin of this name is already"),
        ("there", "loss", "promptbake-there: already exists; choose another name"),
    ],
)  # fmt: skip
def test_an_invalid_name_is_refused(name: str, kind: str, line: str) -> None:
    Path("promptbake-there").mkdir()
    before = sorted(Path.cwd().rglob("*"))
    assert promptbake("new-plugin", name, "--kind", kind).complaint.startswith(line)
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_keyword_of_python_is_refused() -> None:
    for name in ("class", "lambda", "import"):
        assert promptbake("new-plugin", name, "--kind", "loss").code == 2
