"""`promptbake doctor`: what is there, what is missing, and no secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command import promptbake
from distribution import Site
from run_folder import KEY

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
