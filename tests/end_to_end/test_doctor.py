"""`promptbake doctor`: what is there, what is missing, and no secret; `promptbake new-plugin`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tomli
import torch
from command import promptbake
from run_folder import KEY

from distribution import Site
from promptbake.cli.scaffold import KINDS

KEYS = ("OPENAI_API_KEY", "OPENROUTER_API_KEY", "TINKER_API_KEY", "WANDB_API_KEY", "ACME_KEY")
ACME = """
from promptbake import hookimpl, requires

PROMPTBAKE_API = 2

@requires(modules=("no_such_sdk",), install="acme[client]", keys=("ACME_KEY",))
def acme(*, model: str):
    raise AssertionError("it is created while what it requires is missing")

@hookimpl
def promptbake_register_data_providers():
    return {"acme": acme}
"""
SELF = ACME.replace('"acme"', '"mock"')


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


def examined(*arguments: str) -> dict[str, object]:
    health: dict[str, object] = json.loads(promptbake("doctor", "--json", *arguments).out)
    return health


def test_it_shows_all_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMPTBAKE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "model").write_bytes(b"123")
    health = examined()
    assert health["api"] == 2
    assert {"python", "promptbake", "torch", "pluggy", "tinker"} <= set(health["versions"])  # type: ignore[call-overload]
    assert str(health["devices"][0]).startswith("cpu: ")  # type: ignore[index]
    assert health["cache"] == {
        "folder": str(tmp_path / "cache"),
        "bytes": 3,
        "free": pytest.approx(health["cache"]["free"]),  # type: ignore[index]
        "writable": True,
    }
    assert {"name": "jsonl", "version": "0.1.0", "factories": {"trackers": ["jsonl"]}} in health[
        "plugins"
    ]  # type: ignore[operator]
    assert health["load_failures"] == health["conflicts"] == []


def test_a_gpu_that_torch_cannot_use_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nvidia-smi" not in str(examined()["devices"])
    (tmp_path / "nvidia-smi").touch(0o755)
    assert "build for the CPU (make setup TORCH=cuda)" in str(examined()["devices"])


def test_a_key_is_said_to_be_set_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    for arguments in ([], ["--json"]):
        result = promptbake("doctor", *arguments)
        assert KEY not in result.out + result.err
    keys = examined()["keys"]
    assert keys["TINKER_API_KEY"] is True  # type: ignore[index]
    assert keys["OPENROUTER_API_KEY"] is False  # type: ignore[index]
    assert "TINKER_API_KEY: set" in promptbake("doctor").out


def test_a_file_env_is_read_and_what_is_set_already_wins(
    monkeypatch: pytest.MonkeyPatch, prompt: Path
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"OPENROUTER_API_KEY": "theirs"})
    Path(".env").write_text(f'TINKER_API_KEY="{KEY}"\n# a comment\nOPENROUTER_API_KEY={KEY}\n')
    assert examined()["keys"]["TINKER_API_KEY"] is True  # type: ignore[index]
    assert os.environ["TINKER_API_KEY"] == KEY
    assert os.environ["OPENROUTER_API_KEY"] == "theirs"
    assert promptbake("data", prompt, "--profile", "mock").code == 0
    files = [file for file in Path().rglob("*") if file.is_file() and file.name != ".env"]
    assert files
    assert not any(KEY.encode() in file.read_bytes() for file in files)
    Path(".env").write_bytes(b"KEY=\xff\n")
    assert promptbake("doctor").complaint.startswith(".env: cannot be read: ")


def test_it_says_what_each_profile_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert examined()["profiles"] == {
        "local": [],
        "mock": [],
        "tinker": ["OPENROUTER_API_KEY is not set", "TINKER_API_KEY is not set"],
        "tinker-local": [],
        "tinker-recipe": [
            f"{key} is not set" for key in ("OPENROUTER_API_KEY", "TINKER_API_KEY", "WANDB_API_KEY")
        ],
    }
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert not any(examined()["profiles"].values())  # type: ignore[attr-defined]


def test_a_given_profile_that_lacks_something_is_exit_1() -> None:
    assert promptbake("doctor", "--profile", "mock").code == 0
    assert promptbake("doctor", "--profile", "tinker").code == 1
    complaint = promptbake("doctor", "--profile", "mokc").complaint
    assert complaint.startswith("--profile mokc: unknown profile; available: local, mock")


def test_it_names_what_did_not_load_and_what_conflicts(site: Site) -> None:
    site.install("broken", "import no_such_sdk")
    site.install("acme", ACME)
    site.install("other", SELF)
    health = examined()
    assert [each["plugin"] for each in health["load_failures"]] == ["broken"]  # type: ignore[attr-defined]
    assert health["conflicts"] == ["data_providers 'mock' is offered by mock and other"]
    assert health["keys"]["ACME_KEY"] is False  # type: ignore[index]
    (lack,) = health["profiles"]["mock"]  # type: ignore[index]
    assert "the plugins mock and other both offer it" in lack
    shown = promptbake("doctor").out
    assert "broken 1.2: needs the module no_such_sdk" in shown
    assert "data_providers 'mock' is offered by mock and other" in shown
    assert "is offered by mock and other" in promptbake("plugins").out


def test_what_a_plugin_requires_is_named_before_it_is_created(site: Site, prompt: Path) -> None:
    site.install("acme", ACME)
    complaint = promptbake(
        "data", prompt, "--profile", "mock", "--set", "data.provider=acme",
        "--set", "options.data_providers.acme.model=m",
    ).complaint  # fmt: skip
    assert complaint == (
        "data_providers 'acme' (plugin acme) needs the module no_such_sdk: "
        "pip install 'acme[client]'"
    )


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


@pytest.mark.parametrize(
    ("name", "kind", "line"),
    [
        ("x", "los", "--kind los: unknown kind; choose from: data-provider, teacher, loss, "
         "backend, evaluator, tracker, command (did you mean loss?)"),
        ("1st", "loss", "1st: expected a name of letters and digits, such as skew-kl"),
        ("a/b", "loss", "a/b: expected a name"),
        ("class", "loss", "class: expected a name"),
        ("import", "loss", "import: expected a name"),
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


@pytest.mark.parametrize("kind", ["evaluators", "data_provider", "Data-Providers"])
def test_a_kind_may_be_spelt_as_in_the_settings(kind: str) -> None:
    assert promptbake("new-plugin", "a2", "--kind", kind).code == 0
    assert "name" in promptbake("plugins", "--kind", kind).out
