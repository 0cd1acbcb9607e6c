"""What a user sees when a stranger's plugin fails: which one, and that the others still work."""

from __future__ import annotations

import json
import traceback
from pathlib import Path

import pytest
from command import promptbake
from distribution import Site
from run_folder import MOCK, settings

LOSS = """
import torch
from promptbake.plugins.hookspecs import hookimpl
from promptbake.errors import BakeError

PROMPTBAKE_API = 2

class Broken:
    targets, linear = "teacher", False

    def __init__(self, how):
        self.how = how

    def __call__(self, student, teacher, measure):
        if self.how == "shape":
            return (measure * (teacher - student)).sum(dim=0)
        if self.how == "mend":
            raise BakeError("options.losses.broken.how: mend it")
        return torch.stack([student, teacher[:, :1]])

def broken(*, how: str = "stack", strict: bool = False):
    if how == "factory":
        raise KeyError(how)
    return Broken(how)

@hookimpl
def promptbake_register_losses():
    return {"broken": broken}
"""
EVALUATOR = """
from promptbake.plugins.hookspecs import hookimpl

PROMPTBAKE_API = 2

class Plain:
    def evaluate(self, evidence):
        return [{"name": "length"}]

@hookimpl
def promptbake_register_evaluators():
    return {"plain": Plain}
"""
PROVIDER = """
from promptbake.plugins.hookspecs import hookimpl
from promptbake.costs import CostEstimate, Usage

PROMPTBAKE_API = 2

class Texts:
    def queries(self):
        return ()

    def estimate_cost(self, job):
        return CostEstimate(Usage(), True, 0.0)

    def generate(self, job):
        return iter(["Arr!"])

@hookimpl
def promptbake_register_data_providers():
    return {"texts": Texts}
"""


def crash(*arguments: str | Path) -> str:
    """What a crash prints."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        promptbake(*arguments)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("stack", "RuntimeError: stack expects each tensor to be equal size"),
        ("shape", ".Broken: gave a result of shape ("),
        ("factory", "KeyError: 'factory'"),
    ],
)
def test_a_crash_inside_a_plugin_says_which_one(
    site: Site, prompt: Path, how: str, line: str
) -> None:
    site.install("stranger", LOSS)
    loss = settings("train.loss=broken", f"options.losses.broken.how={how}")
    assert promptbake("data", prompt, *MOCK, *loss).code == 0
    printed = crash("bake", prompt, *MOCK, *loss)
    assert line in printed
    assert printed.splitlines()[-1] == (
        "promptbake: this is a plugin's: plugin stranger 1.2, hook promptbake_register_losses, "
        f"'broken', options: how='{how}'"
    )


def test_what_a_user_can_mend_is_one_line_all_the_same(site: Site, prompt: Path) -> None:
    site.install("stranger", LOSS)
    loss = settings("train.loss=broken", "options.losses.broken.how=mend")
    assert promptbake("data", prompt, *MOCK, *loss).code == 0
    result = promptbake("bake", prompt, *MOCK, *loss)
    assert result.complaint == "options.losses.broken.how: mend it"


def test_an_evaluator_of_the_wrong_kind_of_result_is_named(
    site: Site, own_copy: Path, prompt: Path
) -> None:
    site.install("stranger", EVALUATOR)
    printed = crash("verify", prompt, *MOCK, *settings('verify.evaluators=["plain"]'))
    assert ".Plain: gave {'name': 'length'}: expected a Measurement" in printed
    assert "plugin stranger 1.2, hook promptbake_register_evaluators, 'plain'" in printed


def test_a_provider_of_the_wrong_kind_of_result_is_named(site: Site, prompt: Path) -> None:
    site.install("stranger", PROVIDER)
    printed = crash("data", prompt, *MOCK, *settings("data.provider=texts"))
    assert ".Texts: gave 'Arr!': expected a Conversation" in printed
    assert "plugin stranger 1.2, hook promptbake_register_data_providers, 'texts'" in printed


EVALUATORS = """
from promptbake.plugins.hookspecs import hookimpl
from promptbake_jsonl import JsonlTracker

PROMPTBAKE_API = 2

class Silent:
    def evaluate(self, evidence):
        return None

class Rude(Silent):
    def evaluate(self, evidence):
        raise SystemExit(7)

class Thief(Silent):
    def evaluate(self, evidence):
        raise PermissionError(13, "Permission denied", "/etc/hosts")

class Child(JsonlTracker):
    def start(self, folder, config, step):
        pass

@hookimpl
def promptbake_register_evaluators():
    return {"silent": Silent, "rude": Rude, "thief": Thief, "none": lambda: None, "empty": object}

@hookimpl
def promptbake_register_trackers():
    return {"child": Child}
"""


@pytest.mark.parametrize(
    ("name", "line", "what"),
    [
        ("silent", "TypeError: 'NoneType' object is not iterable", "a plugin was at work"),
        ("rude", "RuntimeError: SystemExit: 7", "this is a plugin's"),
        ("thief", "PermissionError: [Errno 13] Permission denied: '/etc/hosts'", "this is a plugi"),
        ("none", "builtins.NoneType: has no evaluate", "this is a plugin's"),
        ("empty", "builtins.object: has no evaluate", "this is a plugin's"),
    ],
)
def test_whatever_an_evaluator_does_it_is_named(
    site: Site, own_copy: Path, prompt: Path, name: str, line: str, what: str
) -> None:
    site.install("stranger", EVALUATORS)
    printed = crash("verify", prompt, *MOCK, *settings(f'verify.evaluators=["{name}"]'))
    assert line in printed
    last = printed.splitlines()[-1]
    assert last.startswith(f"promptbake: {what}")
    assert f"plugin stranger 1.2, hook promptbake_register_evaluators, '{name}'" in last


def test_a_class_that_inherits_is_named_and_not_its_parent(site: Site, prompt: Path) -> None:
    site.install("stranger", EVALUATORS)
    assert promptbake("data", prompt, *MOCK).code == 0
    printed = crash("bake", prompt, *MOCK, *settings('train.trackers=["jsonl","child"]'))
    assert "plugin stranger 1.2, hook promptbake_register_trackers, 'child'" in printed
    assert "plugin jsonl" not in printed


def test_a_crash_in_the_core_blames_nobody(prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert promptbake("data", prompt, *MOCK).code == 0
    record = prompt.parent / "runs" / "pirate" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"stages": 3}))
    assert "plugin" not in crash("bake", prompt, *MOCK).splitlines()[-1]


def test_broken_plugins_do_not_stop_a_bake(site: Site, prompt: Path) -> None:
    site.install("missing", "import no_such_sdk")
    site.install("newer", "PROMPTBAKE_API = 99")
    site.install("rude", "raise SystemExit(5)")
    assert promptbake("data", prompt, *MOCK).code == 0
    listed = promptbake("plugins").out
    for line in ("no_such_sdk", "upgrade promptbake", "SystemExit: 5"):
        assert line in listed
