"""Five layers, where each value came from, and messages that say what to type."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from promptbake.cli.prompts import SCHEMA, schema_text
from promptbake.errors import BakeError
from promptbake.plugins.factories import PluginFactory
from promptbake.plugins.registry import PluginChoice, Registry, load
from promptbake.runs.config import Config, flatten, known_keys
from promptbake.runs.describe import describe
from promptbake.runs.layers import profiles, resolve

PROMPTS = Path(__file__).parents[2] / "prompts"


def refusal(*settings: str, **layers: Any) -> str:
    with pytest.raises(BakeError) as caught:
        resolve(settings=settings, **layers)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("setting", ["seed=1", "options.evaluators.checks.patterns.hm=Hm"])
def test_every_value_has_a_source_and_every_key_is_known(setting: str) -> None:
    resolved = resolve("local", settings=[setting])
    keys = {key for key, _ in flatten(resolved.config.model_dump())}
    assert set(resolved.sources) == keys
    assert {*(key for key in keys if key[:8] != "options."), "options"} == set(known_keys())


def test_a_missing_sidecar_is_no_layer_and_a_missing_file_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert resolve("mock", sidecar=missing).config == resolve("mock").config
    assert refusal(config_file=missing) == f"{missing}: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"[train\n", "is not TOML: "), (b'a = "\xff"', "is not UTF-8"), (b"\0", "is not text")],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    assert refusal(config_file=tmp_path / "mine.toml").startswith(
        f"{tmp_path}/mine.toml: {problem}"
    )


def test_toml_1_1_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes("\ufefftrain = {\n  rank = 3,\n}\n".encode())
    assert resolve("mock", config_file=file).config.train.rank == 3


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("seed = 7", "seed", 7),
        (" train . lr=1e-3", "train.lr", 1e-3),
        ("train.tail=drop", "train.tail", "drop"),
        ("model.name=Qwen/Qwen3-8B", "model.name", "Qwen/Qwen3-8B"),
        ('model.name="5"', "model.name", "5"),
        ("data.queries=a=b c.txt", "data.queries", "a=b c.txt"),
        ("data.temperatures=[0, 0.5]", "data.temperatures", (0.0, 0.5)),
        ("verify.evaluators=['checks']", "verify.evaluators", ("checks",)),
        ("options.losses.jsd.beta=0.1", "options.losses.jsd.beta", 0.1),
    ],
)
def test_a_setting_is_toml_or_a_bare_word(setting: str, key: str, value: object) -> None:
    resolved = resolve("mock", settings=[setting])
    assert dict(flatten(resolved.config.model_dump()))[key] == value
    assert resolved.sources[key] == f"--set {setting}"


@pytest.mark.parametrize("setting", ["train.lr", "=3", "", "train..lr=1", ".=2", "train.=2"])
def test_a_setting_without_a_key_or_a_value_is_refused(setting: str) -> None:
    problem = refusal(setting)
    assert problem == f"--set {setting}: expected section.key=value, such as train.lr=1e-3"


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("train.lrr=1", "train.lrr: unknown setting (did you mean train.lr?)"),
        ("trian.lr=1", "trian: unknown setting (did you mean train?)"),
        ("sed=1", "sed: unknown setting (did you mean seed?)"),
        ("train.lr=fast", "train.lr: input should be a valid number; found 'fast'"),
        ("data.held_out=true", "data.held_out: input should be a valid integer; found True"),
        ("seed=9223372036854775808", "seed: input should be less than 9223372036854775808; found "
         "9223372036854775808"),
        ("train.lr=inf", "train.lr: input should be a finite number; found inf"),
        ("train.lr=0", "train.lr: input should be greater than 0; found 0"),
        ("train.rank=0", "train.rank: input should be greater than or equal to 1; found 0"),
        ("train.tail=cut", "train.tail: input should be 'auto', 'sampled', 'bucket', 'renormalize' "
         "or 'drop'; found 'cut'"),
        ("train.trackers=jsonl", "train.trackers: expected a list, such as [1, 2]; found 'jsonl'"),
        ("data.temperatures=[1, 3]", "data.temperatures.1: input should be less than or equal to "
         "2; found 3"),
        ("train=3", "train: expected a table of keys; found 3"),
        ("train.rank.x=3", "train.rank: input should be a valid integer; found {'x': 3}"),
        ("options.backends.torch=3", "options.backends.torch: expected a table of keys; found 3"),
        ("options.backend.torch.alpha=3", "options.backend: unknown kind of plugin; choose from: "
         "data_providers, teachers, losses, backends, evaluators, trackers, commands, "
         "profiles (did you mean backends?)"),
    ],
)  # fmt: skip
def test_a_wrong_setting_tells_its_source_its_key_and_what_was_expected(
    setting: str, problem: str
) -> None:
    assert refusal("train.epochs=2", setting) == f"--set {setting}: {problem}"


def test_a_wrong_value_in_a_file_names_the_file_and_counts_the_others(tmp_path: Path) -> None:
    sidecar = write(tmp_path / "yoda.toml", "[train]\nrank = 'x'\nlr = -1\n")
    assert refusal(sidecar=sidecar).startswith(f"{sidecar}: train.rank: input should be")
    assert refusal(sidecar=sidecar).endswith("; found 'x' (and 1 more)")
    assert resolve("mock", sidecar, settings=["train.rank=1", "train.lr=1"]).config.train.lr == 1


def test_an_unknown_profile_lists_the_profiles() -> None:
    problem = refusal(profile="mok")
    assert problem.startswith("--profile mok: unknown profile; available: ")
    assert all(name in problem for name in profiles())
    assert problem.endswith("(did you mean mock?)")


def offering(*offers: tuple[str, str, str]) -> Registry:
    """Plugins that offer profiles: each with its name, its plugin's and its text."""
    return Registry(
        tuple(
            PluginFactory("profiles", name, plugin, "1", lambda text=text: text)
            for name, plugin, text in offers
        )
    )


def test_a_plugins_profile_is_a_layer_like_any_other() -> None:
    text = (files("promptbake") / "profiles" / "mock.toml").read_text("utf-8")
    registry = offering(("quick", "fast", f"{text}\n[budget]\nmax_dollars = 3\n"))
    resolved = resolve("quick", registry=registry)
    assert resolved.config.budget.max_dollars == 3
    assert resolved.sources["budget.max_dollars"] == "profile quick"
    assert resolved.config.train == resolve("mock").config.train
    assert "quick" in profiles(registry)


@pytest.mark.parametrize(
    ("offers", "problem"),
    [
        ([("quick", "a", ""), ("quick", "b", "")], "the plugins a and b both offer it"),
        ([("quick", "fast", "[train")], "--profile quick (plugin fast): is not TOML: "),
        ([("quick", "fast", "seed = 1")], "model: is missing"),  # a profile is a whole config
        ([("quik", "fast", "")], "unknown profile; available: local, mock, quik, tinker "
         "(did you mean quik?)"),
    ],
)  # fmt: skip
def test_a_plugins_profile_that_cannot_be_used_is_refused(
    offers: list[tuple[str, str, str]], problem: str
) -> None:
    with pytest.raises(BakeError) as caught:
        resolve("quick", registry=offering(*offers))
    assert problem in str(caught.value)


@pytest.mark.parametrize("profile", profiles())
def test_a_profile_names_plugins_and_options_that_exist(profile: str) -> None:
    config, registry = resolve(profile).config, load()
    for choice in config.choices:
        registry.choose(choice)
    for kind, plugins in config.options.items():
        for name, options in plugins.items():
            registry.choose(PluginChoice(kind, name, "options")).check(options)
    assert {"local", "mock"} <= set(profiles())


def test_every_key_says_what_it_is() -> None:
    sections = [
        info.annotation for name, info in Config.model_fields.items() if info.description is None
    ]
    for section in sections:
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        assert section.__doc__
        for name, info in section.model_fields.items():
            assert info.description, f"{section.__name__}.{name} has no description"
    assert len(sections) == 7


@pytest.mark.parametrize(
    ("value", "layout"), [("one", None), ("wide", None), ("per_token", "per_token"), ("[1]", [1])]
)
def test_train_datums_is_moved_to_the_backends_option_with_a_hint(
    value: str, layout: object
) -> None:
    setting = f"train.datums={value}"
    resolved = resolve("tinker", settings=[setting])
    assert dict(flatten(resolved.config.options)).get("backends.tinker.datum_layout") == layout
    key = "options.backends.tinker.datum_layout"
    assert resolved.hints == (
        f"--set {setting}: train.datums is now {key} = 'wide' or 'per_token'",
    )
    if layout is not None:
        assert resolved.sources[key] == f"--set {setting}"
    assert resolve("tinker").hints == ()


def test_options_are_found_by_kind_and_name_and_empty_where_none_are_set() -> None:
    config = resolve("mock", settings=["options.losses.jsd.beta=0.1"]).config
    jsd, forward_kl, backend = (
        PluginChoice(kind, name, "")
        for kind, name in (("losses", "jsd"), ("losses", "forward_kl"), ("backends", "jsd"))
    )
    assert config.options_of(jsd) == {"beta": 0.1}
    assert config.options_of(forward_kl) == config.options_of(backend) == {}


keys = st.text("abc", min_size=1, max_size=3)
tables = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(keys, tables, max_size=3))
def test_flattening_loses_nothing(values: dict[str, Any]) -> None:
    built: dict[str, Any] = {}
    for key, value in flatten(values):
        *sections, last = key.split(".")
        table = built
        for section in sections:
            table = table.setdefault(section, {})
        table[last] = value
    assert built == values


def test_every_setting_is_described() -> None:
    settings = {each.key: each for each in describe(load().factories)}
    own = {key for key in known_keys() if key not in ("options", "targets")}
    assert settings.keys() >= own | {"targets[].teacher"}
    assert [each.key for each in settings.values() if not each.meaning] == []
    expected = {
        "train.lr": ("float", "0.0001", "of the first step; it falls to 0 at the last"),
        "model.name": ("str", "set by the profile", "a hub id, a folder, or a name that the"),
        "data.temperatures": ("list[float]", "[0.5, 0.7, 0.9, 1.0]", "one response a query at"),
        "options.backends.torch.alpha": ("float | None", "not set", "The LoRA's; the rank where"),
        "options.data_providers.openai.model": ("str", "required", "The model's name at the"),
    }
    for key, (type_, default, meaning) in expected.items():
        found = settings[key]
        assert (found.type, found.default, found.meaning[: len(meaning)]) == (
            type_,
            default,
            meaning,
        )


def test_the_prompts_schema_is_that_of_the_settings() -> None:
    file = PROMPTS / SCHEMA
    if os.environ.get("PROMPTBAKE_RECORD"):
        file.write_text(schema_text(), "utf-8")
    schema = json.loads(file.read_text("utf-8"))
    assert schema == json.loads(schema_text()), "run this test once with PROMPTBAKE_RECORD=1"
    assert "required" not in {*schema, *schema["$defs"]["TrainSection"]}  # a file may set any part
    alpha = schema["properties"]["options"]["properties"]["backends"]["properties"]["torch"]
    assert alpha["properties"]["alpha"]["anyOf"][0] == {"exclusiveMinimum": 0, "type": "number"}
    assert not alpha["additionalProperties"]
    for sidecar in PROMPTS.glob("*.toml"):
        assert sidecar.read_text("utf-8").startswith(f"#:schema ./{SCHEMA}\n")
